"""The long table that every analysis writes: one row for each cell, metric and group."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from analysis.stats import Interval
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Cell
from lmmsteer.store import Store

SCHEMA = pl.Schema(
    {
        "model": pl.String(),
        "method": pl.String(),
        "attribute": pl.String(),
        "dataset": pl.String(),
        "metric": pl.String(),
        "group": pl.String(),
        "value": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
        "n": pl.Int64(),
        "coverage": pl.Float64(),
    }
)
META = "lmmsteer.analysis"


@dataclass(frozen=True)
class Score:
    """One row of a score table. `group` is None for the whole cell; n: the rows behind it."""

    cell: Cell
    attribute: str
    metric: str
    interval: Interval
    n: int
    coverage: float | None
    group: str | None = None

    def row(self) -> tuple[Any, ...]:
        cell, found = self.cell, self.interval
        names = (cell.model, cell.method, self.attribute, cell.dataset, self.metric, self.group)
        return (*names, found.value, found.low, found.high, self.n, self.coverage)


def table(scores: Iterable[Score]) -> pl.DataFrame:
    """Scores as the long table."""
    return pl.DataFrame([score.row() for score in scores], schema=SCHEMA, orient="row")


def write(store: Store, path: str, frame: pl.DataFrame, about: Mapping[str, Any]) -> str:
    """Write a table, with what it was made from in its Parquet footer, at once and whole."""
    sink = io.BytesIO()
    frame.write_parquet(sink, metadata={META: json.dumps(about, ensure_ascii=True)})
    store.write_bytes(path, sink.getvalue(), overwrite=True)
    return path


class Rows:
    """A table of row-level results: written batch by batch, visible at once and whole.

    Until then it is held compressed, some twenty bytes a row.
    """

    def __init__(self, store: Store, path: str) -> None:
        self.store, self.path = store, path
        self._sink = io.BytesIO()
        self._writer: pq.ParquetWriter | None = None

    def add(self, frame: pl.DataFrame) -> None:
        """Add rows with the columns of those that were added first."""
        table = frame.to_arrow()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._sink, table.schema, compression="zstd")
        self._writer.write_table(table.cast(self._writer.schema))

    def write(self, about: Mapping[str, Any]) -> list[str]:
        """Make the file, with what it was made from in its footer; none where nothing was added."""
        if self._writer is None:
            return []
        self._writer.add_key_value_metadata({META: json.dumps(about, ensure_ascii=True)})
        self._writer.close()
        self.store.write_bytes(self.path, self._sink.getvalue(), overwrite=True)
        return [self.path]


def read(store: Store, name: str) -> tuple[pl.DataFrame, dict[str, Any]] | None:
    """An analysis' table and what it was made from, or None where it was not run."""
    path = f"scores/{name}.parquet"
    if not store.exists(path):
        return None
    data = store.read_bytes(path)
    try:
        about = pl.read_parquet_metadata(io.BytesIO(data)).get(META, "{}")
        return pl.read_parquet(io.BytesIO(data)), json.loads(about)
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise LmmsteerError(
            f"{store.root}/{path} is damaged.",
            f"Make it anew: lmmsteer analyze analysis={name.rpartition('/')[2]} out={store.root}",
        ) from error
