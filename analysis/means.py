"""Means of several quantities per cell, and their differences from the unsteered cell.

A quantity is a sum and what it is divided by, kept by cluster; a difference is taken over the
clusters that both cells have, so that the same pictures are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from analysis.comparisons import Comparable
from analysis.frame import BASELINE, Answers
from analysis.scores import Score
from analysis.stats import Bootstrap, Floats, ratio
from analysis.sums import Sums
from lmmsteer.schema import Cell


@dataclass
class Seen:
    """Sums of one cell: the columns cluster, NAME and NAME_of for each quantity."""

    cell: Cell
    attribute: str  # without what a sweep varied
    coverage: float | None
    added: Sums = field(default_factory=lambda: Sums("cluster"))

    def sums(self) -> pl.DataFrame:
        return self.added.total()


@dataclass
class Means:
    """The quantities `names` over all cells; `NAME_change` is the difference from unsteered."""

    names: Sequence[str]
    bootstrap: Bootstrap
    seen: dict[Cell, Seen] = field(default_factory=dict)

    def add(self, answers: Answers, sums: pl.DataFrame) -> None:
        """Add rows of a cell: columns cluster and, for each quantity, NAME and NAME_of."""
        columns = [c for name in self.names for c in (name, f"{name}_of")]
        frame = sums.select("cluster", pl.col(columns).cast(pl.Float64))
        made = Seen(answers.cell, answers.files.attribute, answers.coverage)
        self.seen.setdefault(answers.cell, made).added.add(frame)

    def comparables(self) -> list[Comparable]:
        """Every quantity of every cell that has it, as it is compared with the others'."""
        sums = {cell: seen.sums() for cell, seen in self.seen.items()}
        return [
            Comparable(
                cell, cell.attribute, self.seen[cell].attribute, name, columns, ratio(), rate=True
            )
            for name in self.names
            for cell, found in sums.items()
            if (columns := found.select("cluster", name, f"{name}_of"))[f"{name}_of"].sum()
        ]

    def scores(self) -> Iterator[Score]:
        sums = {cell: seen.sums() for cell, seen in self.seen.items()}
        for seen in self.seen.values():
            for name in self.names:
                yield from self._value(seen, sums[seen.cell], name)
            base = self._baseline(seen)
            if base is None:
                continue
            both = sums[seen.cell].join(
                sums[base.cell], on="cluster", how="inner", maintain_order="left"
            )
            for name in self.names:
                yield from self._change(seen, lower(seen.coverage, base.coverage), both, name)

    def _value(self, seen: Seen, sums: pl.DataFrame, name: str) -> Iterator[Score]:
        columns = sums.select(name, f"{name}_of").to_numpy()
        behind = int(columns[:, 1].sum())
        if behind:
            found = self.bootstrap.interval(columns, ratio())
            yield Score(seen.cell, seen.cell.attribute, name, found, behind, seen.coverage)

    def _change(
        self, seen: Seen, coverage: float | None, both: pl.DataFrame, name: str
    ) -> Iterator[Score]:
        of = f"{name}_of"
        columns = both.select(name, of, f"{name}_right", f"{of}_right").to_numpy()
        behind = int(columns[:, 1].sum())
        if behind and columns[:, 3].sum():
            found = self.bootstrap.interval(columns, difference)
            label = f"{name}_change"
            yield Score(seen.cell, seen.cell.attribute, label, found, behind, coverage)

    def _baseline(self, seen: Seen) -> Seen | None:
        if seen.cell.method == BASELINE:
            return None
        attributes = (seen.attribute, "none")
        for other in self.seen.values():
            same = (other.cell.model, other.cell.dataset) == (seen.cell.model, seen.cell.dataset)
            if same and other.cell.method == BASELINE and other.attribute in attributes:
                return other
        return None


def difference(totals: Floats) -> Floats:
    """a / b - c / d of the columns (a, b, c, d)."""
    return totals[..., 0] / totals[..., 1] - totals[..., 2] / totals[..., 3]


def lower(a: float | None, b: float | None) -> float | None:
    """The coverage of a comparison: the lower of its two cells', unknown where one is."""
    return None if a is None or b is None else min(a, b)
