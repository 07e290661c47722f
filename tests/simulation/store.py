"""The production stores as processes of the simulation hold them; they only say where they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmmsteer.store import LocalStore
from tests.simulation.disk import SimDisk
from tests.simulation.place import Place
from tests.simulation.process import Process


class Ordered(dict[Place, None]):
    """A set that is gone through in the order in which it was filled: in every process the same."""

    def add(self, place: Place) -> None:
        self[place] = None


class SimStore(LocalStore):
    """A folder on the simulated disk."""

    def __init__(self, root: Any, disk: SimDisk) -> None:
        super().__init__(root, disk)
        self.process = disk.process
        self._durable: Any = Ordered()

    def local(self, path: str) -> Path | None:
        return None

    def create(self, path: str, data: bytes) -> bool:
        self.process.world.project.made.setdefault(path, set()).add(data)
        with at(self.process, step_of(path)):
            created = super().create(path, data)
        self.process.world.watch.promise(path)
        return created

    def append(self, path: str, line: str) -> None:
        with at(self.process, "log"):
            super().append(path, line)

    def write_bytes(self, path: str, data: bytes, overwrite: bool = True) -> None:
        with at(self.process, "record"):
            super().write_bytes(path, data, overwrite)

    def move(self, path: str, to: str) -> None:
        with at(self.process, "move"):
            super().move(path, to)


@contextmanager
def at(process: Process, step: str) -> Iterator[None]:
    """The process's points are counted as this step's meanwhile."""
    before, process.step = process.step, step
    try:
        yield
    finally:
        process.step = before


def step_of(path: str) -> str:
    if path.endswith("/_cell.json"):
        return "record"
    return "manifest" if path.startswith("manifest/") else "commit"
