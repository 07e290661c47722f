"""A disk in memory that dies, or refuses, at its n-th operation, and forgets what is not synced."""

from __future__ import annotations

import errno
import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from lmmsteer.disk import Disk


class Died(BaseException):
    """The process is gone: no handler of ordinary errors sees it."""


@dataclass(eq=False)
class Inode:
    """A file: what a reader sees, what the platter holds, and whether an fsync ever failed."""

    data: bytes = b""
    kept: bytes = b""
    spoiled: bool = False
    modified: float = 0.0


class MemoryDisk(Disk):
    """Names lead to files, or to None for a folder. `kept` are the names that outlive the machine.

    dies_at: that operation is begun and not ended; refuses: operations that fail, and how.
    without: operations that this file system does not have.
    """

    def __init__(self, without: tuple[str, ...] = ()) -> None:
        self.names: dict[Path, Inode | None] = {Path("/"): None}
        self.kept: dict[Path, Inode | None] = {Path("/"): None}
        self.without = without
        self.dies_at: int | None = None
        self.refuses: dict[int, int] = {}
        self.done: list[str] = []
        self.clock = 1000.0
        self.paused: list[float] = []
        self.number = itertools.count()

    def restart(self) -> None:
        """Another process on the same machine: nothing is forgotten."""
        self.dies_at, self.refuses, self.done = None, {}, []

    def lose_power(self, names_survive: bool) -> None:
        """What was not synced is gone: with its name, or so that an empty file keeps it."""
        self.restart()
        names = self.names if names_survive else self.kept
        there = {p: n for p, n in names.items() if all(a in names for a in p.parents)}
        self.names, self.kept = dict(there), dict(there)
        for inode in there.values():
            if inode is not None:
                inode.data = inode.kept

    def _step(self, name: str) -> None:
        if self.dies_at is not None and len(self.done) >= self.dies_at:
            raise Died
        self.done.append(name)
        if name in self.without:
            raise _refusal(errno.EPERM)
        if len(self.done) - 1 in self.refuses:
            raise _refusal(self.refuses[len(self.done) - 1])

    def make_folder(self, path: Path) -> None:
        self._step("make_folder")
        self._new(path)
        self.names[path] = None

    def create(self, path: Path) -> Inode:  # type: ignore[override]
        self._step("create")
        self._new(path)
        inode = self.names[path] = Inode(modified=self.clock)
        return inode

    def extend(self, path: Path) -> Inode:  # type: ignore[override]
        self._step("extend")
        if path not in self.names:
            self._new(path)
            self.names[path] = Inode(modified=self.clock)
        return self._inode(path)

    def write(self, handle: Inode, data: bytes) -> None:  # type: ignore[override]
        try:
            self._step("write")
        except BaseException:
            handle.data += data[: len(data) // 2]
            raise
        handle.data += data

    def sync(self, handle: Inode) -> None:  # type: ignore[override]
        try:
            self._step("sync")
        except OSError:
            handle.spoiled = True  # its pages are thought clean now: no later fsync writes them
            raise
        if not handle.spoiled:
            handle.kept = handle.data

    def close(self, handle: Inode) -> None:  # type: ignore[override]
        self._step("close")

    def sync_folder(self, path: Path) -> None:
        self._step("sync_folder")
        self._folder(path)
        gone = [p for p in self.kept if p.parent == path and p not in self.names]
        for name in gone:
            del self.kept[name]
        self.kept.update({p: n for p, n in self.names.items() if p.parent == path})

    def link(self, source: Path, target: Path) -> None:
        self._step("link")
        inode = self._inode(source)
        self._new(target)
        self.names[target] = inode

    def rename_new(self, source: Path, target: Path) -> None:
        self._step("rename_new")
        inode = self._inode(source)
        self._new(target)
        self.names[target] = inode
        del self.names[source]

    def replace(self, source: Path, target: Path) -> None:
        self._step("replace")
        self.names[target] = self._inode(source)
        del self.names[source]

    def remove(self, path: Path) -> None:
        self._step("remove")
        self._inode(path)
        del self.names[path]

    def is_file(self, path: Path) -> bool:
        return self.names.get(path) is not None

    def is_folder(self, path: Path) -> bool:
        return path in self.names and self.names[path] is None

    def same_file(self, one: Path, other: Path) -> bool:
        return self._inode(one) is self._inode(other)

    def read(self, path: Path) -> bytes:
        return self._inode(path).data

    def open_input(self, path: Path) -> pa.NativeFile:
        return pa.BufferReader(self._inode(path).data)

    def entries(self, path: Path) -> list[tuple[str, bool]]:
        self._folder(path)
        below = [p for p in self.names if p.parent == path and p != path]
        return [(p.name, self.names[p] is None) for p in below]

    def modified(self, path: Path) -> float:
        return self._inode(path).modified

    def free(self, path: Path) -> int:
        return 10**9

    def unique(self) -> str:
        return f"{next(self.number):032x}"

    def pause(self, seconds: float) -> None:
        self.paused.append(seconds)

    def _inode(self, path: Path) -> Inode:
        inode = self.names.get(path)
        if inode is None:
            raise _refusal(errno.ENOENT)
        return inode

    def _folder(self, path: Path) -> None:
        if not self.is_folder(path):
            raise _refusal(errno.ENOENT)

    def _new(self, path: Path) -> None:
        self._folder(path.parent)
        if path in self.names:
            raise _refusal(errno.EEXIST)


def _refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number))
