"""The one door to storage: a folder on disk, or a bucket (s3://, gs://).

Knows nothing of rows or cells. The listing is the ledger: what `create` made visible under its
final name is done, and nothing else is. Names that begin with a dot are never listed.
"""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path, PurePosixPath
from typing import Protocol

from pyarrow import fs

from lmmsteer.errors import LmmsteerError, RunFailed


class Store(Protocol):
    """Files below one root, named by relative POSIX paths."""

    root: str

    def list(self, prefix: str = "") -> list[str]:
        """Paths of all visible files below a folder, sorted."""
        ...

    def exists(self, path: str) -> bool: ...

    def read_bytes(self, path: str) -> bytes: ...

    def create(self, path: str, data: bytes) -> bool:
        """Make a new file at once and whole; False, and nothing changed, where the name exists."""
        ...

    def write_bytes(self, path: str, data: bytes, overwrite: bool = True) -> None:
        """Replace a file at once and whole: derived files (scores, reports), never parts."""
        ...

    def append(self, path: str, line: str) -> None:
        """Add a line to a log."""
        ...

    def move(self, path: str, to: str) -> None: ...

    def local(self, path: str) -> Path | None:
        """The file on this machine's disk, where there is one."""
        ...


def open_store(out: str) -> Store:
    """The store of an output address: a folder, file://, s3:// or gs:// URL."""
    if "://" not in out:
        return LocalStore(Path(out))
    try:
        filesystem, path = fs.FileSystem.from_uri(out)
    except Exception as error:
        raise LmmsteerError(
            f"out={out} cannot be opened: {error}.", "Name a folder, or an s3:// or gs:// URL."
        ) from error
    if isinstance(filesystem, fs.LocalFileSystem):
        return LocalStore(Path(path))
    return ObjectStore(filesystem, path, out)


class LocalStore:
    """A folder on a local disk or a shared POSIX file system."""

    def __init__(self, root: Path) -> None:
        self.folder = root.expanduser().absolute()
        self.root = str(self.folder)

    def local(self, path: str) -> Path | None:
        return self.folder / path

    def list(self, prefix: str = "") -> list[str]:
        found: list[str] = []
        for folder, folders, names in os.walk(self.folder / prefix):
            folders[:] = [f for f in folders if not f.startswith(".")]
            below = Path(folder).relative_to(self.folder)
            found += [(below / n).as_posix() for n in names if not n.startswith(".")]
        return sorted(found)

    def exists(self, path: str) -> bool:
        return (self.folder / path).is_file()

    def read_bytes(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def create(self, path: str, data: bytes) -> bool:
        """Write beside, fsync, re-read and check, hard-link to the final name, fsync the folder."""
        final = self.folder / path
        with _Failures(final):
            temporary = _write_beside(final, data)
            try:
                if temporary.read_bytes() != data:
                    raise OSError(errno.EIO, "what was written reads back differently")
                os.link(temporary, final)
                created = True
            except FileExistsError:
                created = False
            finally:
                temporary.unlink(missing_ok=True)
            _fsync_folder(final.parent)
        return created

    def write_bytes(self, path: str, data: bytes, overwrite: bool = True) -> None:
        if not overwrite:
            if not self.create(path, data):
                raise FileExistsError(path)
            return
        final = self.folder / path
        with _Failures(final):
            os.replace(_write_beside(final, data), final)
            _fsync_folder(final.parent)

    def append(self, path: str, line: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def move(self, path: str, to: str) -> None:
        target = self.folder / to
        with _Failures(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(self.folder / path, target)
            _fsync_folder(target.parent)
            _fsync_folder((self.folder / path).parent)


class ObjectStore:
    """A bucket, through pyarrow's file systems: one PUT makes an object visible, whole."""

    def __init__(self, filesystem: fs.FileSystem, base: str, root: str) -> None:
        self.filesystem = filesystem
        self.base = base.rstrip("/")
        self.root = root
        self._logs: dict[str, str] = {}

    def _path(self, path: str) -> str:
        return f"{self.base}/{path}" if path else self.base

    def local(self, path: str) -> Path | None:
        return None

    def list(self, prefix: str = "") -> list[str]:
        selector = fs.FileSelector(self._path(prefix), recursive=True, allow_not_found=True)
        found = [
            str(PurePosixPath(info.path).relative_to(self.base))
            for info in self.filesystem.get_file_info(selector)
            if info.type == fs.FileType.File
        ]
        return sorted(p for p in found if not any(s.startswith(".") for s in p.split("/")))

    def exists(self, path: str) -> bool:
        return self.filesystem.get_file_info(self._path(path)).type == fs.FileType.File

    def read_bytes(self, path: str) -> bytes:
        with self.filesystem.open_input_file(self._path(path)) as file:
            return file.read()

    def create(self, path: str, data: bytes) -> bool:
        """One PUT, read back. A second writer of a shard writes the same bytes."""
        if self.exists(path):
            return False
        self.write_bytes(path, data)
        if self.read_bytes(path) != data:
            raise RunFailed(f"{self.root}/{path} reads back differently from what was written.")
        return True

    def write_bytes(self, path: str, data: bytes, overwrite: bool = True) -> None:
        if not overwrite and self.exists(path):
            raise FileExistsError(path)
        if isinstance(self.filesystem, (fs.LocalFileSystem, fs.SubTreeFileSystem)):
            self.filesystem.create_dir(self._path(path).rpartition("/")[0], recursive=True)
        with self.filesystem.open_output_stream(self._path(path)) as file:
            file.write(data)

    def append(self, path: str, line: str) -> None:
        self._logs[path] = self._logs.get(path, "") + line + "\n"
        self.write_bytes(path, self._logs[path].encode())

    def move(self, path: str, to: str) -> None:
        self.write_bytes(to, self.read_bytes(path))
        self.filesystem.delete_file(self._path(path))


class _Failures:
    """Turns what a disk can refuse into one sentence that names the place."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError) or isinstance(error, FileExistsError):
            return
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "Free some space and run the same command again: what is done stays done."
        if not full:
            mend = "Check the folder's rights, or choose another with out=FOLDER."
        raise RunFailed(f"{self.path} cannot be written: {error.strerror}.", mend) from error


def _write_beside(final: Path, data: bytes) -> Path:
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".{final.name}.{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
