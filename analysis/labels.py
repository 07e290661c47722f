"""The manifest's labels of answers: from the part of the same name, else from the whole manifest.

Parts of answers hold the rows of the manifest's part of their name, so that one such part is in
memory at a time. Answers that were put together in another way take the whole manifest.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from lmmsteer.schema import LABELS
from lmmsteer.store import Store

MANIFEST_COLUMNS = ("row_id", "prompt", "group_id", *LABELS)
Read = Callable[[Store, list[str], tuple[str, ...]], pl.DataFrame]


class Labels:
    """The labels of a data set's rows. read: reads named columns of parts."""

    def __init__(self, store: Store, dataset: str, read: Read) -> None:
        self.store, self._read = store, read
        listed = store.list(f"manifest/dataset={dataset}/rows")
        self.paths = [path for path in listed if path.endswith(".parquet")]
        self._whole: pl.DataFrame | None = None
        self._name, self._part = "", pl.DataFrame()

    def whole(self) -> pl.DataFrame | None:
        """row_id, prompt, group_id and labels of all rows, or None without a manifest."""
        if self._whole is None and self.paths:
            self._whole = self._read(self.store, self.paths, MANIFEST_COLUMNS)
        return self._whole

    def join(self, frame: pl.DataFrame, name: str) -> pl.DataFrame:
        """Answers of the part `name` with their labels; `planned`: whether a row has a manifest's.

        Without a manifest no label is there, and every row counts as planned.
        """
        if not self.paths:
            return frame.with_columns(planned=True)
        found = _joined(frame, self._of(name))
        if not found["planned"].all():
            whole = self.whole()
            assert whole is not None
            found = _joined(frame, whole)
        return found

    def _of(self, name: str) -> pl.DataFrame:
        """The manifest's part of that name; where there is none, all of it."""
        if name != self._name:
            paths = [path for path in self.paths if path.rpartition("/")[2] == name]
            part = self._read(self.store, paths, MANIFEST_COLUMNS) if paths else self.whole()
            assert part is not None
            self._name, self._part = name, part
        return self._part


def _joined(frame: pl.DataFrame, manifest: pl.DataFrame) -> pl.DataFrame:
    marked = manifest.with_columns(planned=True)
    joined = frame.join(marked, on="row_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("planned").fill_null(False))
