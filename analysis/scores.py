"""The long table that every analysis writes: one row for each cell, metric and group."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

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
