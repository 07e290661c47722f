"""The manifest's pictures: their original bytes one by one, and small ones for a page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from types import TracebackType
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from analysis import thumbnail
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import Store

COLUMNS = ["image_id", "bytes"]
BATCH = 64  # pictures in memory at a time


def parts(store: Store, dataset: str) -> list[str]:
    """The manifest's image parts of a data set."""
    found = store.list(f"manifest/dataset={dataset}/images")
    return [path for path in found if path.endswith(".parquet")]


class Thumbnails:
    """Small JPEGs of the pictures of a data set, kept on disk; a context that removes them.

    wanted: image ids; pictures that are not there or cannot be read have none.
    """

    def __init__(self, store: Store, dataset: str, wanted: Set[str], pixels: int) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the context
        self._places: dict[str, tuple[int, int]] = {}
        small = partial(thumbnail.jpeg, pixels=pixels)
        with ThreadPoolExecutor(os.cpu_count()) as hands:
            for found in batches(store, dataset, wanted):
                made = hands.map(small, found["bytes"])
                for name, data in zip(found["image_id"], made, strict=True):
                    self._keep(name, data)

    def get(self, image_id: str) -> str | None:
        """A picture as a data URI."""
        if image_id not in self._places:
            return None
        start, size = self._places[image_id]
        self._file.seek(start)
        return thumbnail.uri(self._file.read(size))

    def _keep(self, name: str, data: bytes | None) -> None:
        if data is not None:
            self._places[name] = (self._file.seek(0, os.SEEK_END), len(data))
            self._file.write(data)

    def __enter__(self) -> Thumbnails:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Originals:
    """The original bytes of single pictures, found by data set and image id."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._parts: dict[str, dict[str, str]] = {}  # data set, image id: part
        self._lock = Lock()

    def read(self, dataset: str, image_id: str) -> bytes | None:
        """None where there is no such picture, or where it could not be read."""
        part = self._index(dataset).get(image_id)
        if part is None:
            return None
        with _opened(self.store, part) as file:
            for group in range(file.num_row_groups):
                table = pl.DataFrame(file.read_row_group(group, columns=COLUMNS))
                found = table.filter(pl.col("image_id") == image_id)
                if len(found):
                    return found["bytes"][0]
        return None

    def _index(self, dataset: str) -> dict[str, str]:
        with self._lock:
            if dataset not in self._parts:
                self._parts[dataset] = dict(self._ids(dataset))
            return self._parts[dataset]

    def _ids(self, dataset: str) -> Iterator[tuple[str, str]]:
        for path in parts(self.store, dataset):
            with _opened(self.store, path) as file:
                for name in file.read(columns=["image_id"])["image_id"].to_pylist():
                    yield name, path


def batches(store: Store, dataset: str, wanted: Set[str]) -> Iterator[pl.DataFrame]:
    """image_id and bytes of the wanted pictures that there are, until all were found."""
    left = set(wanted)
    for path in parts(store, dataset):
        if not left:
            return
        with _opened(store, path) as file:
            for batch in file.iter_batches(BATCH, columns=COLUMNS):
                found = pl.DataFrame(batch).filter(pl.col("image_id").is_in(left)).drop_nulls()
                left -= set(found["image_id"])
                yield found


def _opened(store: Store, path: str) -> Any:
    try:
        return pq.ParquetFile(store.local(path) or store.open_input(path))
    except (pa.ArrowException, OSError) as error:
        raise LmmsteerError(
            f"{store.root}/{path} cannot be read: {' '.join(str(error).split()).rstrip('.')}.",
            f"See what is wrong with: lmmsteer verify out={store.root}",
        ) from error
