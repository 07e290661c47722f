"""A folder on a local disk or a shared POSIX file system.

A commit: write beside, fsync, close, read back and compare, claim the final name exclusively,
fsync the folder, remove what was written beside. A folder is durable before a file is put in it.
Nothing here trusts a clock: of two writers of a name one wins, whenever the other wakes up.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from lmmsteer.disk import Disk
from lmmsteer.errors import RunFailed
from lmmsteer.store.claim import Claim, drop, hidden, is_at
from lmmsteer.store.errors import Unreadable, reason, unreadable, unwritable

T = TypeVar("T")

GRACE = 3600.0
TRIES = 5
NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)
LEFTOVER = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


class LocalStore:
    """Files below a folder. `disk` is what it asks of the operating system."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.folder = root.expanduser().absolute()
        self.root = str(self.folder)
        self.disk = disk or Disk()
        self._claim: Claim | None = None
        self._unsynced = ""
        self._durable: set[Path] = set()
        self._logs: set[Path] = set()
        self._torn: set[Path] = set()

    @property
    def commit(self) -> str:
        if self._claim is None:
            with self._writing(self.folder):
                self._make_durable(self.folder)
                self._claim = Claim(self.disk, self.folder)
        return self._claim.how + self._unsynced

    def local(self, path: str) -> Path | None:
        return self.folder / path

    def list(self, prefix: str = "") -> list[str]:
        return sorted(path for path, name in self._walk(prefix) if not name.startswith("."))

    def exists(self, path: str) -> bool:
        return self._look(self.folder / path, self.disk.is_file)

    def read_bytes(self, path: str) -> bytes:
        return self._look(self.folder / path, self.disk.read)

    def open_input(self, path: str) -> pa.NativeFile:
        return self._look(self.folder / path, self.disk.open_input)

    def create(self, path: str, data: bytes) -> bool:
        final = self.folder / path
        with self._beside(final, data) as temporary:
            created = self._take(temporary, final)
            self._sync(final.parent)
        return created

    def write_bytes(self, path: str, data: bytes, overwrite: bool = True) -> None:
        final = self.folder / path
        if overwrite:
            with self._beside(final, data) as temporary:
                self.disk.replace(temporary, final)
                self._sync(final.parent)
        elif not self.create(path, data):
            raise FileExistsError(path)

    def append(self, path: str, line: str) -> None:
        target = self.folder / path
        with self._writing(target):
            self._make_durable(target.parent)
            handle = self.disk.extend(target)
            try:
                # A line that a full disk cut short must not swallow the next one.
                start = "\n" if target in self._torn else ""
                self._torn.add(target)
                self.disk.write(handle, f"{start}{line}\n".encode())
                self._torn.discard(target)
            finally:
                self.disk.close(handle)
        self._logs.add(target)

    def flush(self) -> None:
        for target in sorted(self._logs):
            with self._writing(target):
                handle = self.disk.extend(target)
                try:
                    self.disk.sync(handle)
                finally:
                    self.disk.close(handle)
                self._sync(target.parent)
        self._logs.clear()

    def move(self, path: str, to: str) -> None:
        source, target = self.folder / path, self.folder / to
        with self._writing(target):
            self._make_durable(target.parent)
            if not self._moved_before(source, target) and not self._take(source, target):
                raise RunFailed(f"{target} exists already, so {source} stays where it is.")
            self._sync(target.parent)
            if is_at(self.disk, source, target):
                self.disk.remove(source)
            self._sync(source.parent)

    def collect(self, prefix: str = "", grace: float = GRACE) -> list[str]:
        folder = self.folder / prefix
        with self._writing(folder):
            if not self.disk.is_folder(folder):
                return []
            before = self._now(folder) - grace
            found = list(self._walk(prefix))
            old = [path for path, name in found if LEFTOVER.fullmatch(name)]
            collected = [path for path in sorted(old) if self._removed(self.folder / path, before)]
            for below in sorted({path.rpartition("/")[0] for path, _ in found}):
                with _unless_gone():
                    self._sync(self.folder / below)
        return collected

    def free(self) -> int | None:
        folder = self.folder
        while not self._look(folder, self.disk.is_folder) and folder != folder.parent:
            folder = folder.parent
        return self._look(folder, self.disk.free)

    @contextmanager
    def _writing(self, place: Path) -> Iterator[None]:
        """What the disk refuses as one sentence that names the place."""
        try:
            yield
        except Unreadable:
            raise
        except OSError as error:
            gone = self._gone() if isinstance(error, FileNotFoundError) else []
            if gone:
                raise RunFailed(
                    f"{min(gone)} was deleted or moved away while it was being written to.",
                    "Run the same command again: what is missing is made anew.",
                ) from error
            raise unwritable(place, error) from error

    def _gone(self) -> list[Path]:
        """Folders that were there and are not; none where the disk does not say."""
        with suppress(OSError):
            return [folder for folder in self._durable if not self.disk.is_folder(folder)]
        return []

    @contextmanager
    def _beside(self, final: Path, data: bytes) -> Iterator[Path]:
        """The data, durable and read back, under another name in the folder of the final one."""
        temporary = hidden(self.disk, final.parent, final.name)
        with self._writing(final):
            self._make_durable(final.parent)
            try:
                self._write(temporary, data)
                if self.disk.read(temporary) != data:
                    raise OSError(errno.EIO, "what was written reads back differently")
                yield temporary
            finally:
                drop(self.disk, temporary)

    def _write(self, temporary: Path, data: bytes) -> None:
        # After an fsync that failed, a second one may succeed without the data being on the disk:
        # the file is given up and the next attempt begins with another.
        handle = self.disk.create(temporary)
        try:
            self.disk.write(handle, data)
            self.disk.sync(handle)
        except BaseException:
            with suppress(OSError):
                self.disk.close(handle)
            raise
        self.disk.close(handle)

    def _take(self, source: Path, target: Path) -> bool:
        if self._claim is None:
            self._claim = Claim(self.disk, target.parent)
        return self._claim.take(source, target)

    def _moved_before(self, source: Path, target: Path) -> bool:
        """Whether another driver, or a run that was killed half-way, has moved it."""
        if self.disk.is_file(source):
            return False
        if self.disk.is_file(target):
            return True
        raise RunFailed(f"{source} is not there to be moved.")

    def _make_durable(self, folder: Path) -> None:
        """A folder whose own name, and those of all above it, outlive the machine.

        Folders are made from the top down, each name synced before the next is made: so the name of
        the lowest one that is there is the only one that another writer may not have synced yet.
        """
        if folder in self._durable:
            return
        if not self.disk.is_folder(folder):
            self._make_durable(folder.parent)
            with suppress(FileExistsError):
                self.disk.make_folder(folder)
        try:
            self._sync(folder.parent)
        except PermissionError:
            # What lies above the root need not be ours to open.
            if self.folder in folder.parents:
                raise
        self._durable.add(folder)

    def _sync(self, folder: Path) -> None:
        try:
            self.disk.sync_folder(folder)
        except OSError as error:
            if error.errno not in NO_FOLDER_SYNC:
                raise
            if folder == self.folder or self.folder in folder.parents:
                self._unsynced = f"; folders cannot be synced here ({reason(error)})"

    def _look(self, path: Path, look: Callable[[Path], T]) -> T:
        """What the disk says of a path; asked again where a server has forgotten the handle."""
        for attempt in range(TRIES):
            try:
                return look(path)
            except (FileNotFoundError, NotADirectoryError):
                raise
            except OSError as error:
                if error.errno != errno.ESTALE or attempt == TRIES - 1:
                    raise unreadable(path, error) from error
                self.disk.pause(0.05 * 2**attempt)
        raise AssertionError("unreachable")

    def _walk(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Path and name of every file below a folder, those in hidden folders left out."""
        pending = [prefix.strip("/")]
        while pending:
            below = pending.pop()
            for name, is_folder in self._entries(self.folder / below):
                path = f"{below}/{name}" if below else name
                if not is_folder:
                    yield path, name
                elif not name.startswith("."):
                    pending.append(path)

    def _entries(self, folder: Path) -> list[tuple[str, bool]]:
        try:
            return self._look(folder, self.disk.entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _now(self, folder: Path) -> float:
        """The time by the clock that stamps the files of a folder, which may be a server's."""
        probe = hidden(self.disk, folder, "probe")
        try:
            self.disk.close(self.disk.create(probe))
            return self.disk.modified(probe)
        finally:
            drop(self.disk, probe)

    def _removed(self, leftover: Path, before: float) -> bool:
        with _unless_gone():
            if self.disk.modified(leftover) <= before:
                self.disk.remove(leftover)
                return True
        return False


@contextmanager
def _unless_gone() -> Iterator[None]:
    """What another host removed a moment ago may still be listed here, or be a stale handle."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise
