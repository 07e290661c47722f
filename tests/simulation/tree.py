"""A file system in memory with a page cache: what was not synced may be lost with the machine.

A file's contents and each name in a folder are lost or kept by themselves; the two names of a
rename go together. Writes may be torn. Knows nothing of who works on it.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from random import Random

Name = tuple[str, str]  # A folder's path, and a name in it.


def refusal(number: int, *names: str) -> OSError:
    return OSError(number, os.strerror(number), *names[:1])


@dataclass(eq=False, slots=True)
class File:
    """kept: what outlives the machine (None: not even that it is empty). spoiled: a sync failed,
    so that no later one says anything. names: under which it can be found. stamp: last written.
    host: who wrote last.
    """

    data: bytes = b""
    kept: bytes | None = None
    spoiled: bool = False
    stamp: float = 0.0
    host: str = ""
    handles: int = 0
    names: list[str] = field(default_factory=list)

    @property
    def durable(self) -> bool:
        return self.kept is not None and self.kept == self.data


@dataclass(eq=False, slots=True)
class Folder:
    """kept: the names that outlive the machine. dirty: those changed since, and by which step."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    kept: dict[str, File | Folder] = field(default_factory=dict)
    dirty: dict[str, int] = field(default_factory=dict)


Node = File | Folder


class Tree:
    """Files by path, whole paths as text. Every method raises what a kernel would."""

    def __init__(self) -> None:
        self.root = Folder()
        self.folders: dict[str, Folder] = {"": self.root}
        self.changes = 0

    # Looking

    def find(self, path: str) -> Node | None:
        """What is there under a path, or nothing."""
        if not path:
            return self.root
        above, _, name = path.rpartition("/")
        folder = self.folders.get(above)
        return None if folder is None else folder.names.get(name)

    def file(self, path: str) -> File:
        node = self.find(path)
        if node is None:
            raise refusal(errno.ENOENT, path)
        if isinstance(node, Folder):
            raise refusal(errno.EISDIR, path)
        return node

    def folder(self, path: str) -> Folder:
        folder = self.folders.get(path)
        if folder is None:
            raise refusal(errno.ENOENT if self.find(path) is None else errno.ENOTDIR, path)
        return folder

    def files(self) -> dict[str, File]:
        """Every file, by its path."""
        return {
            f"{above}/{name}": node
            for above, folder in self.folders.items()
            for name, node in folder.names.items()
            if isinstance(node, File)
        }

    def durable(self, path: str) -> bool:
        """Whether a file would be found again, whole, after a loss of power.

        Or the one that was there before it under the same name, where it holds the same bytes.
        """
        node = self.find(path)
        if not isinstance(node, File) or not node.durable:
            return False
        path, _, name = path.rpartition("/")
        kept = self.folders[path].kept.get(name)
        if not isinstance(kept, File) or kept.kept != node.data:
            return False
        while path:
            above, _, name = path.rpartition("/")
            folder = self.folders[above]
            if folder.kept.get(name) is not folder.names[name]:
                return False
            path = above
        return True

    # Changing

    def make_folder(self, path: str) -> None:
        above, name = self._place(path)
        if name in above.names:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        self.folders[path] = Folder()
        self._put(above, name, self.folders[path])

    def create(self, path: str, stamp: float, host: str) -> File:
        above, name = self._place(path)
        if name in above.names:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        file = File(stamp=stamp, host=host)
        self._put(above, name, file)
        file.names.append(path)
        return file

    def link(self, source: str, target: str) -> None:
        file = self.file(source)
        above, name = self._place(target)
        if name in above.names:
            raise FileExistsError(errno.EEXIST, "File exists", target)
        self._put(above, name, file)
        file.names.append(target)

    def rename(self, source: str, target: str, over: bool) -> None:
        file = self.file(source)
        above, name = self._place(target)
        old = above.names.get(name)
        if old is file:
            return
        if isinstance(old, Folder):
            raise refusal(errno.EISDIR, target)
        if old is not None and not over:
            raise FileExistsError(errno.EEXIST, "File exists", target)
        if old is not None:
            old.names.remove(target)
        self._put(above, name, file)
        file.names.append(target)
        self._drop(source, file, same=True)

    def remove(self, path: str) -> None:
        self._drop(path, self.file(path))

    def remove_folder(self, path: str) -> None:
        """A folder and everything in it, as an `rm -rf` of somebody else."""
        if path not in self.folders:
            return
        for below in [p for p in self.folders if p == path or p.startswith(path + "/")]:
            for name, node in self.folders[below].names.items():
                if isinstance(node, File):
                    node.names.remove(f"{below}/{name}")
            del self.folders[below]
        above, _, name = path.rpartition("/")
        del self.folders[above].names[name]
        self._touch(self.folders[above], name)

    def sync(self, file: File) -> None:
        if not file.spoiled:
            file.kept = file.data

    def sync_folder(self, path: str) -> None:
        folder = self.folder(path)
        for name in folder.dirty:
            _copy(folder.names, folder.kept, name)
        folder.dirty.clear()

    def sync_all(self) -> None:
        for path, folder in self.folders.items():
            self.sync_folder(path)
            for node in folder.names.values():
                if isinstance(node, File):
                    node.spoiled = False
                    self.sync(node)

    def _place(self, path: str) -> tuple[Folder, str]:
        above, _, name = path.rpartition("/")
        return self.folder(above), name

    def _put(self, folder: Folder, name: str, node: Node) -> None:
        folder.names[name] = node
        self._touch(folder, name)

    def _drop(self, path: str, file: File, same: bool = False) -> None:
        folder, name = self._place(path)
        del folder.names[name]
        file.names.remove(path)
        self._touch(folder, name, same)

    def _touch(self, folder: Folder, name: str, same: bool = False) -> None:
        self.changes += not same
        folder.dirty[name] = self.changes

    # Losing

    def lose_power(self, chance: Random) -> None:
        """The machine ends and starts again: of what was not synced anything may be there."""
        fates: dict[int, bool] = {}
        for folder in self.folders.values():
            for name, change in folder.dirty.items():
                if not fates.setdefault(change, chance.random() < 0.5):
                    _copy(folder.kept, folder.names, name)
        self._rebuild()
        for file in dict.fromkeys(self.files().values()):
            file.data = _torn(file, chance)
            file.kept, file.spoiled, file.handles = file.data, False, 0

    def lose_host(self, host: str, chance: Random) -> None:
        """A client of a file server ends: what it wrote and did not sync may be lost."""
        for file in dict.fromkeys(self.files().values()):
            if file.host == host and not file.durable:
                file.data = file.kept = _torn(file, chance)

    def _rebuild(self) -> None:
        """Folders and names as they can be reached from the root; all of it is kept now."""
        for file in self.files().values():
            file.names.clear()
        self.folders = {}
        pending: list[tuple[str, Folder]] = [("", self.root)]
        while pending:
            path, folder = pending.pop()
            self.folders[path] = folder
            folder.kept = dict(folder.names)
            folder.dirty.clear()
            for name, node in folder.names.items():
                if isinstance(node, Folder):
                    pending.append((f"{path}/{name}", node))
                else:
                    node.names.append(f"{path}/{name}")


def _copy(source: dict[str, Node], target: dict[str, Node], name: str) -> None:
    if name in source:
        target[name] = source[name]
    else:
        target.pop(name, None)


def _torn(file: File, chance: Random) -> bytes:
    """What the disk has of a file: synced bytes, then any part of the rest, or blocks of zeros."""
    kept = file.kept or b""
    if file.durable or not file.data.startswith(kept):
        return kept if chance.random() < 0.5 else file.data
    rest = file.data[len(kept) :]
    fate = chance.randrange(4)
    if fate == 0:
        return kept
    if fate == 1:
        return file.data
    if fate == 2:
        return kept + bytes(len(rest))
    return kept + rest[: chance.randrange(len(rest) + 1)]
