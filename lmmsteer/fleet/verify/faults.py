"""What can be wrong in an output folder, and which of it is moved aside by a repair."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass
from typing import Literal

from lmmsteer.store import Store
from lmmsteer.store.errors import reason

Kind = Literal[
    "damaged",  # not the bytes that were written
    "misplaced",  # whole, and not what belongs at this place: swapped, stale, of another config
    "inconsistent",  # whole, and its rows contradict themselves or its footer
    "unknown",  # a part that the manifest does not have
    "stray",  # a file that nothing here has
    "leftover",  # a temporary of a writer that died
    "missing",
    "repeated",  # an image id that another part has too
    "conflict",  # two records that contradict each other
    "version",  # written by another version of lmmsteer
    "unreadable",  # no file, or one that the storage refuses to read
]
MOVED = frozenset({"damaged", "misplaced", "inconsistent", "unknown", "stray", "leftover"})


@dataclass(frozen=True)
class Fault:
    """One fault. path: below the output folder; fault: what reads on after the path.

    seen: sha256 of the bytes that were judged, where they were read.
    """

    path: str
    fault: str
    kind: Kind
    seen: str | None = None

    def __str__(self) -> str:
        return f"{self.path} {self.fault}"

    @property
    def moved(self) -> bool:
        """Whether a repair moves the file aside."""
        return self.kind in MOVED


class Wrong(Exception):
    """Why a file is not what it should be; `at` makes it a fault of that file."""

    def __init__(self, kind: Kind, why: str) -> None:
        self.kind: Kind = kind
        self.why = " ".join(why.split())
        super().__init__(why)

    def at(self, path: str, data: bytes | None = None) -> Fault:
        seen = None if data is None else hashlib.sha256(data).hexdigest()
        return Fault(path, self.why, self.kind, seen)


def read(store: Store, path: str) -> bytes:
    """A file's bytes. Raises Wrong where there are none to judge."""
    try:
        return store.read_bytes(path)
    except FileNotFoundError as error:
        local = store.local(path)
        if local is not None and os.path.lexists(local):
            raise Wrong("unreadable", "is a link to nothing") from error
        raise Wrong("missing", "is missing") from error
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        kind = "damaged" if cause.errno == errno.EIO else "unreadable"
        raise Wrong(kind, f"cannot be read: {reason(cause)}") from error
