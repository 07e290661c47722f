"""A remote file whose reads are tried again, for readers that want only some of its bytes."""

from __future__ import annotations

import io
from collections.abc import Callable

import pyarrow as pa

Again = Callable[[Callable[[], bytes]], bytes]


class PatientFile(io.RawIOBase):
    """`again` makes a read as often as it is worth it."""

    def __init__(self, file: pa.NativeFile, again: Again) -> None:
        self.file = file
        self.again = again
        self.size = file.size()
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def read(self, size: int = -1) -> bytes:
        wanted = self.size - self.at if size < 0 else size
        data = self.again(lambda: self.file.read_at(wanted, self.at))
        self.at += len(data)
        return data

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()
