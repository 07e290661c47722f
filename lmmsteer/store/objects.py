"""A bucket, through pyarrow's file systems: one upload makes an object visible, whole.

Knows nothing of addresses. Every request is tried again, within bounds, after faults that pass;
whether an upload whose answer was lost was carried out is found by reading back.
"""

from __future__ import annotations

import atexit
import sys
import uuid
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from lmmsteer.errors import RunFailed
from lmmsteer.store.errors import Unreadable, refused
from lmmsteer.store.kinds import kind_of
from lmmsteer.store.log_buffer import EVERY, LogBuffer
from lmmsteer.store.patient_file import PatientFile
from lmmsteer.store.retries import Retries

T = TypeVar("T")

HANDS = 4


class ObjectStore:
    """Objects below `base`, which is a bucket and a path in it.

    creation: whether the bucket may be made where it is missing; every: seconds between two
    uploads of a log that grows.
    """

    def __init__(
        self,
        filesystem: fs.FileSystem,
        base: str,
        root: str,
        creation: bool = False,
        retries: Retries | None = None,
        every: float = EVERY,
    ) -> None:
        self.filesystem: fs.FileSystem | None = filesystem
        self.base = base.rstrip("/")
        self.root = root
        self.creation = creation
        self.retries = retries or Retries()
        self._logs = LogBuffer(self._log_so_far, self._put, every)
        self._tried = False
        self._hands = ThreadPoolExecutor(HANDS, "store")
        _OPEN.add(self)

    @property
    def commit(self) -> str:
        if not self._tried:
            probe = f".probe.{uuid.uuid4().hex}.tmp"
            self.write_bytes(probe, b"lmmsteer")
            self._delete(probe)
            self._tried = True
        return "one upload, read back (a second writer of a part writes the same bytes)"

    def local(self, path: str) -> Path | None:
        return None

    def list(self, prefix: str = "") -> list[str]:
        selector = fs.FileSelector(self._key(prefix), recursive=True, allow_not_found=True)
        infos = self._read(prefix, lambda files: files.get_file_info(selector))
        found = [info.path[len(self.base) + 1 :] for info in infos if info.type == fs.FileType.File]
        return sorted(p for p in found if not any(s.startswith(".") for s in p.split("/")))

    def exists(self, path: str) -> bool:
        info = self._read(path, lambda files: files.get_file_info(self._key(path)))
        return info.type == fs.FileType.File

    def read_bytes(self, path: str) -> bytes:
        return self._read(path, lambda files: self._fetch(files, path))

    def open_input(self, path: str) -> pa.NativeFile:
        file = self._read(path, lambda files: files.open_input_file(self._key(path)))
        again = partial(self._read, path)
        return pa.PythonFile(PatientFile(file, lambda ask: again(lambda _: ask())), mode="r")

    def create(self, path: str, data: bytes) -> bool:
        if self.exists(path):
            return False
        self.write_bytes(path, data)
        return True

    def write_bytes(self, path: str, data: bytes, overwrite: bool = True) -> None:
        if not overwrite and self.exists(path):
            raise FileExistsError(path)
        self._put(path, data)
        if self._written(path) != data:
            raise RunFailed(
                f"{self._place(path)} reads back differently from what was written:"
                " another writer wrote something else at the same time.",
                "Run the same command again: what is done stays done.",
            )

    def append(self, path: str, line: str) -> None:
        self._logs.append(path, line)

    def flush(self) -> None:
        self._logs.flush()

    def move(self, path: str, to: str) -> None:
        if self.exists(path):
            data = self.read_bytes(path)
            if not self.create(to, data) and self.read_bytes(to) != data:
                raise RunFailed(
                    f"{self._place(to)} exists already, so {self._place(path)} stays where it is."
                )
            self._delete(path)
        elif not self.exists(to):
            raise RunFailed(f"{self._place(path)} is not there to be moved.")

    def collect(self, prefix: str = "") -> list[str]:
        return []  # An upload that is not finished leaves nothing that a listing shows.

    def free(self) -> int | None:
        return None

    def close(self) -> None:
        """Send the last log lines and let go of the connection."""
        try:
            self._logs.close()
        finally:
            self._hands.shutdown()
            self.filesystem = None

    def _key(self, path: str) -> str:
        return f"{self.base}/{path}".rstrip("/")

    def _place(self, path: str) -> str:
        return f"{self.root.partition(':')[0]}://{self._key(path)}"

    def _files(self) -> fs.FileSystem:
        if self.filesystem is None:
            raise RunFailed(f"{self._place('')} was closed.")
        return self.filesystem

    def _read(self, path: str, ask: Callable[[fs.FileSystem], T]) -> T:
        files = self._files()
        try:
            return self.retries.run(lambda: ask(files))
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            tries = self.retries.tries
            raise Unreadable(*refused(self._place(path), "read", error, tries)) from None

    def _write(self, path: str, ask: Callable[[fs.FileSystem], T]) -> T:
        files = self._files()
        try:
            return self.retries.run(lambda: ask(files))
        except (OSError, pa.ArrowException) as error:
            tries = self.retries.tries
            raise RunFailed(*refused(self._place(path), "written", error, tries)) from None

    def _fetch(self, files: fs.FileSystem, path: str) -> bytes:
        with files.open_input_file(self._key(path)) as file:
            return file.read()

    def _put(self, path: str, data: bytes) -> None:
        def put(files: fs.FileSystem) -> None:
            try:
                self._upload(files, path, data)
            except (OSError, pa.ArrowException):
                # It may have been carried out, and only the answer was lost.
                if not self._holds(files, path, data):
                    raise

        self._write(path, put)

    def _upload(self, files: fs.FileSystem, path: str, data: bytes) -> None:
        """In a thread that no Ctrl-C interrupts: an upload that is dropped midway is carried out.

        pyarrow closes an output stream that is left by an exception, and closing makes the object.
        """

        def upload() -> None:
            if self.creation:
                files.create_dir(self.base.partition("/")[0])
                self.creation = False
            kind = kind_of(path)  # A page in a bucket is shown, not downloaded.
            metadata = {"Content-Type": kind} if kind else None
            with files.open_output_stream(self._key(path), metadata=metadata) as file:
                file.write(data)

        try:
            upload_in_hand = self._hands.submit(upload)
        except RuntimeError:  # The interpreter is exiting and starts no more threads.
            return upload()
        return upload_in_hand.result()

    def _holds(self, files: fs.FileSystem, path: str, data: bytes) -> bool:
        try:
            return self._fetch(files, path) == data
        except (OSError, pa.ArrowException):
            return False

    def _written(self, path: str) -> bytes:
        """What was just written; a server may say for a while that it is not there."""

        def fetch(files: fs.FileSystem) -> bytes:
            try:
                return self._fetch(files, path)
            except FileNotFoundError as error:
                raise TimeoutError(f"it is not there after it was written ({error})") from error

        return self._read(path, fetch)

    def _delete(self, path: str) -> None:
        def delete(files: fs.FileSystem) -> None:
            try:
                files.delete_file(self._key(path))
            except FileNotFoundError:
                return  # Done by another, or by a request whose answer was lost.

        self._write(path, delete)

    def _log_so_far(self, path: str) -> bytes:
        try:
            return self.read_bytes(path)
        except FileNotFoundError:
            return b""


_OPEN: weakref.WeakSet[ObjectStore] = weakref.WeakSet()


@atexit.register
def _let_go() -> None:
    """Before the interpreter exits: a connection that outlives the SDK hangs or crashes it.

    Registered after pyarrow's own hook, so it runs before it: first the handles, then the SDK.
    """
    for store in list(_OPEN):
        try:
            store.close()
        except RunFailed as error:
            print(f"lmmsteer: {error.what}", file=sys.stderr)
