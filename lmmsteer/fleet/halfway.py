"""What the passes of a fit have come to, kept until its artifact is there.

ARTIFACT_FOLDER/.pass-KEY-NAME: hidden, so no listing shows it as a result. KEY is a digest over all
that a pass can hang on, so another fit's passes are never taken for this one's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from lmmsteer.fleet import stack
from lmmsteer.fleet.task import FitTask
from lmmsteer.store import Store

DIGEST = 32  # Bytes of sha256, before the data that they are of.


class Halfway:
    """A shelf for `Passes`. learned_from: what the fit sees of the data set, as JSON can hold it.

    device: the kind of card, whose last bits may be others than another's.
    """

    def __init__(
        self,
        store: Store,
        task: FitTask,
        learned_from: Mapping[str, Any],
        device: str,
        say: Callable[[str], None],
    ) -> None:
        defining = {
            "method": task.method.method,
            "fit": task.fingerprint,
            "engine": asdict(task.engine),
            "stack": {**stack.versions(), "device": device},
            "data": learned_from,
        }
        key = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()
        self.store, self.say = store, say
        self.path, self.folder = task.path, task.path.rpartition("/")[0]
        self.start = f"{self.folder}/.pass-{key[:16]}-"
        self.names: set[str] = set()

    def read(self, name: str) -> bytes | None:
        """None where it is not there, or is not what was written."""
        try:
            data = self.store.read_bytes(self.start + name)
        except FileNotFoundError:
            return None
        if not data:  # Cleared: the artifact was there, and is no longer.
            return None
        if hashlib.sha256(data[DIGEST:]).digest() != data[:DIGEST]:
            self.say(f"{self.store.root}/{self.start}{name} is damaged, and computed again")
            return None
        if not self.names:
            self.say("some of its passes are there already, and are not computed again")
        self.names.add(name)
        return data[DIGEST:]

    def write(self, name: str, data: bytes) -> None:
        self.store.write_bytes(self.start + name, hashlib.sha256(data).digest() + data)
        self.names.add(name)

    def over(self) -> bool:
        return self.store.exists(self.path)

    def clear(self) -> None:
        """Nothing of this is left, nor of other fits that were to be written to the same place."""
        local = self.store.local(self.folder)
        if local is not None:
            for kept in local.glob(".pass-*"):
                kept.unlink(missing_ok=True)  # Another driver at the same fit may be clearing too.
            return
        for name in sorted(self.names):  # A bucket's objects are emptied: they take no room.
            self.store.write_bytes(self.start + name, b"")
