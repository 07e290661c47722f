"""The one door to storage: a folder on disk, or a bucket (s3://, gs://).

Knows nothing of rows or cells. The listing is the ledger: what `create` made visible under its
final name is done, and nothing else is. Names that begin with a dot are never listed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from lmmsteer.errors import LmmsteerError
from lmmsteer.store.bucket import open_bucket
from lmmsteer.store.errors import Unreadable
from lmmsteer.store.local import LocalStore
from lmmsteer.store.objects import ObjectStore
from lmmsteer.store.retries import Retries

__all__ = ["LocalStore", "ObjectStore", "Store", "Unreadable", "open_store", "require_free"]


class Store(Protocol):
    """Files below one root, named by relative POSIX paths.

    root: the address, without credentials; what `open_store` makes the same store from.
    """

    root: str

    @property
    def commit(self) -> str:
        """How a new name is claimed here, for people. Tried out by writing, if nobody has yet."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """Paths of all visible files below a folder, sorted."""
        ...

    def exists(self, path: str) -> bool: ...

    def read_bytes(self, path: str) -> bytes:
        """Raises FileNotFoundError; Unreadable for what is there and cannot be read."""
        ...

    def open_input(self, path: str) -> pa.NativeFile:
        """A file to read from at any offset, not fetched whole. Raises as `read_bytes`."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Make a new file at once and whole; False, and nothing changed, where the name exists."""
        ...

    def write_bytes(self, path: str, data: bytes, overwrite: bool = True) -> None:
        """Replace a file at once and whole: derived files (scores, reports), never parts."""
        ...

    def append(self, path: str, line: str) -> None:
        """Add a line to a log that nobody else writes; `flush` makes sure of it."""
        ...

    def flush(self) -> None:
        """Every line given to `append` is in the store when this returns."""
        ...

    def move(self, path: str, to: str) -> None:
        """Give a file another name; no name that exists is taken. Once moved, again is nothing."""
        ...

    def collect(self, prefix: str = "") -> list[str]:
        """Remove what killed writers left beside their files, an hour after; the removed paths.

        Afterwards all that is listed below the folder outlives the machine, whoever wrote it.
        """
        ...

    def free(self) -> int | None:
        """Bytes that may still be written; None where nobody can say."""
        ...

    def local(self, path: str) -> Path | None:
        """The file on this machine's disk, where there is one."""
        ...


def open_store(out: str) -> Store:
    """The store of an output address: a folder, file://, s3:// or gs:// URL."""
    scheme, found, _ = out.partition("://")
    if not found:
        return LocalStore(Path(out))
    if scheme == "file":
        return LocalStore(Path(unquote(urlsplit(out).path)))
    if scheme not in ("s3", "gs"):
        raise LmmsteerError(
            f"out={out} cannot be opened: {scheme}:// is not known.",
            "Name a folder, or an s3:// or gs:// address.",
        )
    retries = Retries()
    bucket = open_bucket(out, retries)
    return ObjectStore(bucket.filesystem, bucket.base, out, bucket.creation, retries)


def require_free(store: Store, needed: int) -> None:
    """Refuse work for which the store has no room. Raises: LmmsteerError."""
    free = store.free()
    if free is not None and free < needed:
        raise LmmsteerError(
            f"{store.root} has {free / 2**30:.1f} GiB free and needs {needed / 2**30:.1f} GiB.",
            "Free some space, or choose another folder: out=FOLDER",
        )
