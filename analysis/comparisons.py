"""Methods against unsteered and against each other, over the pictures that both answered.

One row for each pair and metric: the difference with its interval, a paired permutation test by
picture, that p value corrected for how many were made, and an effect size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from analysis.frame import BASELINE
from analysis.settings import Analysis
from analysis.stats import Bootstrap, Permutation, Statistic, adjusted, difference, effect
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Cell

CORRECTIONS = ("holm", "bh", "none")
CLUSTERS = ("image_id", "group_id")
SCHEMA = pl.Schema(
    {
        "model": pl.String(),
        "dataset": pl.String(),
        "attribute": pl.String(),
        "metric": pl.String(),
        "method": pl.String(),
        "against": pl.String(),
        "difference": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
        "p": pl.Float64(),
        "p_adjusted": pl.Float64(),
        "effect": pl.Float64(),
        "clusters": pl.Int64(),
    }
)


@dataclass(frozen=True)
class Comparable:
    """A cell's sums by cluster, and the statistic of their totals that is compared.

    sums: a column `cluster`, then the statistic's columns. base: the attribute without what a sweep
    varied. rate: whether the columns are (hits, rows), of which there is an effect size.
    """

    cell: Cell
    attribute: str
    base: str
    metric: str
    sums: pl.DataFrame
    statistic: Statistic
    rate: bool = True

    def meets(self, other: Comparable) -> bool:
        """Same model, data set and metric, and the same attribute or none of its own."""
        ours, theirs = self.cell, other.cell
        same = (ours.model, ours.dataset, self.metric) == (
            theirs.model,
            theirs.dataset,
            other.metric,
        )
        alike = self.base == other.base or "none" in (self.base, other.base)
        columns = self.sums.columns == other.sums.columns
        return same and alike and columns and ours != theirs


def refuse_unknown(settings: Analysis) -> None:
    """Raise LmmsteerError for a cluster or a correction that there is not."""
    for key, known in (("cluster", CLUSTERS), ("correction", CORRECTIONS)):
        if getattr(settings, key) not in known:
            raise LmmsteerError(
                f"analysis.{key}={getattr(settings, key)} is not known.",
                f"Choose one of {', '.join(known)}.",
            )


def table(
    found: Sequence[Comparable], bootstrap: Bootstrap, permutation: Permutation, correction: str
) -> pl.DataFrame:
    """Every pair, those against unsteered first. p values are corrected within the metric and kind.

    kind: against unsteered, or between two steered methods.
    """
    rows = [_row(*pair, bootstrap, permutation) for pair in _pairs(found)]
    families: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault((row["metric"], row["against"] == BASELINE), []).append(row)
    for family in families.values():
        corrected = adjusted([row["p"] for row in family], correction)
        for row, p in zip(family, corrected, strict=True):
            row["p_adjusted"] = p
    rows.sort(key=lambda row: row["against"] != BASELINE)
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _pairs(found: Sequence[Comparable]) -> Iterator[tuple[Comparable, Comparable]]:
    """(method, against), unsteered always second."""
    for one, other in combinations(found, 2):
        if one.meets(other):
            yield (other, one) if one.cell.method == BASELINE else (one, other)


def _row(
    one: Comparable, other: Comparable, bootstrap: Bootstrap, permutation: Permutation
) -> dict[str, Any]:
    both = one.sums.join(other.sums, on="cluster", how="inner", maintain_order="left")
    columns = both.drop("cluster").cast(pl.Float64).to_numpy()
    half = columns.shape[1] // 2
    first, second = columns[:, :half], columns[:, half:]
    interval = bootstrap.interval(np.ascontiguousarray(columns), difference(one.statistic))
    named = one if one.base != "none" else other
    return {
        "model": one.cell.model,
        "dataset": one.cell.dataset,
        "attribute": named.attribute,
        "metric": one.metric,
        "method": one.cell.method,
        "against": other.cell.method,
        "difference": interval.value,
        "low": interval.low,
        "high": interval.high,
        "p": permutation.p(first, second, one.statistic),
        "effect": effect(first, second) if one.rate else None,
        "clusters": len(both),
    }
