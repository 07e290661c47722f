"""Bad files moved to out/trash, so that what made them makes them again. Nothing is ever edited.

Killed at any instant it leaves each file in one of two places, and the same command goes on. What
is gone, or was made anew since it was judged, is left alone: several repairers do no harm.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterable

from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet.verify.faults import Fault
from lmmsteer.store import Store


def stamp() -> str:
    """The name of a folder in out/trash that nobody else has."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"


def aside(store: Store, faults: Iterable[Fault], where: str) -> list[str]:
    """Move what is to be moved to trash/WHERE; the paths of what was."""
    bad = {fault.path: fault for fault in faults if fault.moved}
    return [path for path in bad if _judged(store, bad[path]) and _move(store, path, where)]


def _judged(store: Store, fault: Fault) -> bool:
    """Whether the file is still the one that was found bad."""
    if fault.seen is None:
        return True
    try:
        return hashlib.sha256(store.read_bytes(fault.path)).hexdigest() == fault.seen
    except FileNotFoundError:
        return False


def _move(store: Store, path: str, where: str) -> bool:
    try:
        store.move(path, f"trash/{where}/{path}")
    except (FileNotFoundError, LmmsteerError):
        if store.exists(path):
            raise
        return False  # Another repairer was faster.
    return True
