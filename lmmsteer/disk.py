"""What a store asks of the operating system, one small method each.

Knows nothing of commits, temporaries or retries: those are LocalStore's. A test puts another disk
beneath the same store: one that loses what was not synced, dies at its n-th operation, is full.
The methods down to `remove` change the disk, and each is a point at which a machine can die.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

AT_FDCWD = -100
RENAME_NOREPLACE = 1


class Disk:
    """A mounted file system. Every method raises OSError with the kernel's error number."""

    def make_folder(self, path: Path) -> None:
        """One folder in a folder that is there. Raises FileExistsError, FileNotFoundError."""
        path.mkdir()

    def create(self, path: Path) -> int:
        """A new, empty file, open for writing. Raises FileExistsError."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def extend(self, path: Path) -> int:
        """A file open for writing at its end; made where it is not there."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def write(self, handle: int, data: bytes) -> None:
        """All of the data; where it raises, any part of them may have been written."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]

    def sync(self, handle: int) -> None:
        """The file's contents outlive the machine from here on; not yet its name."""
        os.fsync(handle)

    def close(self, handle: int) -> None:
        os.close(handle)

    def sync_folder(self, path: Path) -> None:
        """The names in a folder outlive the machine from here on."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def link(self, source: Path, target: Path) -> None:
        """A second name for a file. Raises FileExistsError where the name is taken."""
        os.link(source, target)

    def rename_new(self, source: Path, target: Path) -> None:
        """Another name for a file. Raises FileExistsError; ENOSYS or EINVAL where unsupported."""
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if renameat2 is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        names = (AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target))
        if renameat2(*names, RENAME_NOREPLACE) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(source), None, str(target))

    def replace(self, source: Path, target: Path) -> None:
        """Another name for a file; what had that name is gone."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Raises FileNotFoundError."""
        path.unlink()

    def is_file(self, path: Path) -> bool:
        return _is(stat.S_ISREG, path)

    def is_folder(self, path: Path) -> bool:
        return _is(stat.S_ISDIR, path)

    def same_file(self, one: Path, other: Path) -> bool:
        """Whether two names are of one file."""
        return os.path.samestat(one.stat(), other.stat())

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def open_input(self, path: Path) -> pa.NativeFile:
        """A file to read from at any offset."""
        return pa.OSFile(str(path))

    def entries(self, path: Path) -> list[tuple[str, bool]]:
        """Names in a folder, and whether each is a folder; links to folders are left out."""
        with os.scandir(path) as found:
            return [
                (entry.name, entry.is_dir(follow_symlinks=False))
                for entry in found
                if not (entry.is_symlink() and entry.is_dir())
            ]

    def modified(self, path: Path) -> float:
        """When a file was last written, in seconds by the file system's own clock."""
        return path.stat().st_mtime

    def free(self, path: Path) -> int:
        """Bytes that an ordinary user may still write to the file system of a folder."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def unique(self) -> str:
        """32 hex digits that nobody else has."""
        return uuid.uuid4().hex

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


def _is(kind: Callable[[int], bool], path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return kind(mode)
