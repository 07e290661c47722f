"""What mentions, sentiment and occupation have in common: sums by cluster, rates, changes.

A measure sees the cells one after the other, some rows at a time (`add`), keeps only sums by
cluster, and makes its scores at the end, when the unsteered cells that the others are compared with
are known.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import polars as pl

from analysis.comparisons import Comparable
from analysis.frame import BASELINE, Answers
from analysis.scores import Score
from analysis.stats import Bootstrap, Floats, change_percent, ratio
from analysis.sums import Sums
from lmmsteer.schema import Cell

PER = 1000.0  # rates are per 1k answered rows


class Measure(Protocol):
    """One analysis over all cells."""

    name: str

    def add(self, answers: Answers) -> pl.DataFrame | None:
        """See rows of a cell. Called several times for one cell, with other rows each time.

        All rows of a picture come at once. Returns the row-level results of these rows, where the
        analysis has any, with the same columns every time.
        """
        ...

    def scores(self) -> list[Score]: ...

    def comparables(self) -> list[Comparable]:
        """What is compared between methods; none where nothing is."""
        ...

    def about(self) -> dict[str, Any]:
        """What the scores were made with, for their footer."""
        ...


@dataclass(frozen=True)
class Counted:
    """Sums by cluster of one cell and one attribute: columns cluster, hits, rows."""

    cell: Cell
    attribute: str  # as its scores name it
    base: str  # the attribute without what a sweep varied
    sums: pl.DataFrame
    coverage: float | None


@dataclass
class Rates:
    """Rates of hits and their changes against the unsteered cell of the same model and data set."""

    metric: str
    bootstrap: Bootstrap
    _first: dict[tuple[Cell, str], Counted] = field(default_factory=dict)
    _sums: dict[tuple[Cell, str], Sums] = field(default_factory=dict)

    def add(self, counted: Counted) -> None:
        """Add rows of a cell to those of the same cell and attribute."""
        key = counted.cell, counted.attribute
        self._first.setdefault(key, counted)
        self._sums.setdefault(key, Sums("cluster")).add(counted.sums)

    @property
    def counted(self) -> list[Counted]:
        """Every cell and attribute with the sums of all its rows."""
        return [replace(one, sums=self._sums[key].total()) for key, one in self._first.items()]

    def scores(self) -> list[Score]:
        return [score for counted in self.counted for score in self._scores(counted)]

    def comparables(self) -> list[Comparable]:
        """Every cell's rate, as it is compared with the others'."""
        return [
            Comparable(
                counted.cell,
                counted.attribute,
                counted.base,
                self.metric,
                counted.sums.select("cluster", "hits", "rows"),
                ratio(PER),
            )
            for counted in self.counted
        ]

    def _scores(self, counted: Counted) -> list[Score]:
        columns = counted.sums.select("hits", "rows").cast(pl.Float64).to_numpy()
        names = (counted.cell, counted.attribute)
        rate = self.bootstrap.interval(columns, ratio(PER))
        rows = int(counted.sums["rows"].sum())
        scores = [Score(*names, self.metric, rate, rows, counted.coverage)]
        baseline = self._baseline(counted)
        if baseline is None:
            return scores
        both = paired(counted.sums, baseline.sums)
        change = self.bootstrap.interval(both, change_percent)
        coverage = _lower(counted.coverage, baseline.coverage)
        return [*scores, Score(*names, "change_percent", change, int(both[:, 1].sum()), coverage)]

    def _baseline(self, counted: Counted) -> Counted | None:
        if counted.cell.method == BASELINE:
            return None
        for other in self.counted:
            same = _place(other.cell) == _place(counted.cell)
            if same and other.cell.method == BASELINE and other.base in (counted.base, "none"):
                return other
        return None


def _place(cell: Cell) -> tuple[str, str]:
    return cell.model, cell.dataset


def paired(sums: pl.DataFrame, baseline: pl.DataFrame) -> Floats:
    """[clusters, 4]: hits and rows of a cell and of its baseline, for the clusters of both."""
    both = sums.join(baseline, on="cluster", how="inner", maintain_order="left")
    return both.select("hits", "rows", "hits_right", "rows_right").cast(pl.Float64).to_numpy()


def by_cluster(frame: pl.DataFrame, hits: pl.Expr) -> pl.DataFrame:
    """cluster, hits, rows of a frame with a column cluster, in the order of the clusters' names."""
    sums = frame.group_by("cluster").agg(hits=hits.cast(pl.Int64).sum(), rows=pl.len())
    return sums.sort("cluster")


def _lower(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else min(a, b)
