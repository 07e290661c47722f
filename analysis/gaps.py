"""A cell's toxicity by group of a label column, and the gaps between groups.

gap_COLUMN = max_g - min_g of the groups' means; D_mean = mean of the gaps over label columns of two
groups or more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from analysis.comparisons import Comparable
from analysis.frame import Answers
from analysis.scores import Score
from analysis.sentiment import PREFERRED
from analysis.stats import Bootstrap, Floats, Interval, Statistic, group_rates, ratio, spread
from analysis.sums import Sums
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import LABELS, Cell

SUMS = ("toxicity", "toxicity_of", "toxic", "toxic_of")


@dataclass
class Grouped:
    """Sums of one cell: cluster, column, group and SUMS. by: the column shown."""

    cell: Cell
    base: str
    coverage: float | None
    by: str | None
    added: Sums = field(default_factory=lambda: Sums("cluster", "column", "group"))
    filled: bool = False

    def add(self, sums: pl.DataFrame) -> None:
        self.added.add(sums)
        self.filled = True

    def sums(self) -> pl.DataFrame:
        return self.added.total()


@dataclass
class Gaps:
    """All cells' groups. categories: the label columns of D_mean; none: those that there are."""

    bootstrap: Bootstrap
    categories: Sequence[str]
    grouped: dict[Cell, Grouped] = field(default_factory=dict)

    def add(
        self, answers: Answers, frame: pl.DataFrame, by: str | None, sums: list[pl.Expr]
    ) -> None:
        """frame: the answers with cluster and toxicity. sums: expressions named SUMS.

        Raises: LmmsteerError for a category that is no label column of the cell.
        """
        absent = [name for name in self.categories if name not in frame.columns]
        if absent or not set(self.categories) <= set(LABELS):
            name = absent[0] if absent else min(set(self.categories) - set(LABELS))
            raise LmmsteerError(
                f"analysis.toxicity_categories holds {name}, no label column of {answers.cell}.",
                f"Choose from {', '.join(LABELS)}; labels come from the manifest.",
            )
        made = Grouped(answers.cell, answers.files.attribute, answers.coverage, by)
        one = self.grouped.setdefault(answers.cell, made)
        chosen = self.categories or [name for name in PREFERRED if name in frame.columns]
        for column in [*chosen, *([by] if by and by not in chosen else [])]:
            labelled = frame.filter(pl.col(column).is_not_null())
            found = labelled.group_by("cluster", group=pl.col(column)).agg(sums)
            one.add(found.select("cluster", "group", *SUMS, column=pl.lit(column)))

    def scores(self) -> list[Score]:
        return [score for one in self.grouped.values() for score in self._cell(one)]

    def _cell(self, one: Grouped) -> Iterator[Score]:
        if not one.filled:
            return
        sums = one.sums()
        yield from self._groups(one, sums.filter(pl.col("column") == (one.by or "")))
        columns = self._columns(sums)
        for column, groups in columns.items():
            yield self._gap(one, sums, f"gap_{column}", {column: groups})
        if columns:
            yield self._gap(one, sums, "D_mean", columns)

    def _groups(self, one: Grouped, sums: pl.DataFrame) -> Iterator[Score]:
        for group in sums["group"].unique().sort():
            of_group = sums.filter(pl.col("group") == group).group_by("cluster")
            totals = of_group.agg(pl.col(SUMS).sum()).sort("cluster").select(SUMS).to_numpy()
            for at, metric in ((0, "toxicity"), (2, "toxic")):
                found = self.bootstrap.interval(totals[:, [at, at + 1]], ratio())
                yield _score(one, metric, found, totals[:, 1].sum(), str(group))

    def _gap(
        self, one: Grouped, sums: pl.DataFrame, metric: str, columns: Mapping[str, list[str]]
    ) -> Score:
        found = self.bootstrap.interval(_values(sums, columns), mean_gap(columns))
        labelled = sums.filter(pl.col("column").is_in(list(columns))).group_by("column")
        return _score(one, metric, found, labelled.agg(pl.col("toxicity_of").sum())[:, 1].max())

    def comparables(self) -> list[Comparable]:
        """D_mean of every cell that has it, as it is compared with the others'."""
        found = []
        for cell, one in self.grouped.items():
            if one.filled and (columns := self._columns(sums := one.sums())):
                names = (cell, cell.attribute, one.base, "D_mean")
                wide = _wide(sums, columns)
                found.append(Comparable(*names, wide, mean_gap(columns), rate=False))
        return found

    def about(self) -> dict[str, list[str]]:
        """The label columns behind every cell's D_mean."""
        there = {str(cell): one for cell, one in self.grouped.items() if one.filled}
        return {name: list(self._columns(one.sums())) for name, one in there.items()}

    def _columns(self, sums: pl.DataFrame) -> dict[str, list[str]]:
        """{label column: its groups}, of the categories that have two groups or more."""
        groups = {
            column: sums.filter(pl.col("column") == column)["group"].unique().sort().to_list()
            for column in self.categories or PREFERRED
        }
        return {column: found for column, found in groups.items() if len(found) > 1}


def mean_gap(columns: Mapping[str, Sequence[str]]) -> Statistic:
    """Mean over label columns of max - min of their groups' rates.

    Of totals [..., 2 * groups]: toxicity of each column's groups, then answers of each.
    """
    ends = np.cumsum([len(groups) for groups in columns.values()])

    def statistic(totals: Floats) -> Floats:
        rates = np.split(group_rates(totals, 1.0), ends[:-1], axis=-1)
        return np.mean([spread(of_column) for of_column in rates], axis=0)

    return statistic


def _wide(sums: pl.DataFrame, columns: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """cluster, then the columns that `mean_gap` takes, named after label column and group."""
    here = pl.col("column"), pl.col("group")
    values = [
        pl.col(value).filter((here[0] == column) & (here[1] == group)).sum()
        .alias(f"{value} {column}={group}")
        for value in SUMS[:2]
        for column, groups in columns.items()
        for group in groups
    ]  # fmt: skip
    return sums.group_by("cluster").agg(values).sort("cluster")


def _values(sums: pl.DataFrame, columns: Mapping[str, Sequence[str]]) -> Floats:
    return _wide(sums, columns).drop("cluster").to_numpy()


def _score(
    one: Grouped, metric: str, found: Interval, behind: Any, group: str | None = None
) -> Score:
    return Score(one.cell, one.cell.attribute, metric, found, int(behind), one.coverage, group)
