"""How a file is given a name that nobody has: whoever comes second is told so.

Knows nothing of what is in the files. Tried out on empty ones before it is relied on.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lmmsteer.disk import Disk
from lmmsteer.store.errors import reason

NO_SUCH_OPERATION = (
    errno.EPERM,
    errno.EACCES,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
    errno.EMLINK,
    errno.EXDEV,
)


class Claim:
    """The exclusive creation of one file system. `how` names it; `folder` is where it is tried."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self.disk = disk
        why = self._refused(disk.link, folder)
        if not why:
            self._name, self.how = disk.link, "hard link"
        elif not self._refused(disk.rename_new, folder):
            self._name, self.how = disk.rename_new, "rename without replacing"
        else:
            self._name = self._check_and_rename
            self.how = f"check, then rename (this file system has no exclusive creation: {why})"

    def take(self, source: Path, target: Path) -> bool:
        """Whether the file has the name now; False where another has it. A link leaves both."""
        try:
            self._name(source, target)
        except FileExistsError:
            # A network file system answers so, too, to a request that was sent twice and done once.
            return is_at(self.disk, source, target)
        return True

    def _refused(self, name: Callable[[Path, Path], None], folder: Path) -> str:
        """Why two empty files show that a name cannot be claimed so; empty where it can."""
        one, two = hidden(self.disk, folder, "probe"), hidden(self.disk, folder, "probe")
        try:
            for probe in (one, two):
                self.disk.close(self.disk.create(probe))
            return self._tried(name, one, two)
        finally:
            drop(self.disk, one)
            drop(self.disk, two)

    def _tried(self, name: Callable[[Path, Path], None], one: Path, two: Path) -> str:
        try:
            with suppress(FileExistsError):
                name(one, two)
                return "an existing name is replaced"
            self.disk.remove(two)
            with suppress(FileExistsError):  # as in `take`: sent twice, done once
                name(one, two)
        except OSError as error:
            if error.errno not in NO_SUCH_OPERATION:
                raise
            return reason(error)
        return ""

    def _check_and_rename(self, source: Path, target: Path) -> None:
        if self.disk.is_file(target):
            raise FileExistsError(target)
        self.disk.replace(source, target)


def is_at(disk: Disk, source: Path, target: Path) -> bool:
    """Whether the file `source` has the name `target` as well."""
    try:
        return disk.same_file(source, target)
    except FileNotFoundError:
        return False


def hidden(disk: Disk, folder: Path, name: str) -> Path:
    """A name in a folder that no listing shows and nobody else has."""
    return folder / f".{name}.{disk.unique()}.tmp"


def drop(disk: Disk, path: Path) -> None:
    """Remove a file of a hidden name; where even that is refused, `collect` finds it later."""
    with suppress(OSError):
        disk.remove(path)
