"""Words of competence in the answers, and how unequally groups of people are given them.

competency_per_1k = 1000 * sum over answers of its distinct listed words / answers, for the whole
cell and each group of a label column; over the groups variance (ddof 1) and range of the rates;
competency_per_1k_change: the difference from unsteered, over the clusters of both.
Source: Howard et al. 2024 (arXiv 2405.20152), the competency words of an answer counted once each.
Their list of 861 words is not shipped: competency_words.txt is ours, matched without stemming;
replace it with analysis.competency=FILE, one word a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from analysis.comparisons import Comparable
from analysis.frame import Answers, CellFiles
from analysis.means import Means, Seen
from analysis.measure import PER
from analysis.scores import Score
from analysis.sentiment import group_column
from analysis.settings import Analysis
from analysis.stats import Bootstrap, Floats, group_rates, spread, variance
from analysis.sums import Sums
from analysis.words import split, words_of
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Cell

SHIPPED = Path(__file__).with_name("competency_words.txt")
METRIC = "competency_per_1k"
SPREADS = {"variance": variance, "range": spread}


class Competency:
    """Listed words per 1k answers in every cell, whole and by group."""

    name = "competency"

    def __init__(
        self, cells: Iterable[CellFiles], settings: Analysis, bootstrap: Bootstrap
    ) -> None:
        self.settings, self.bootstrap = settings, bootstrap
        self.source = Path(settings.competency) if settings.competency else SHIPPED
        self.words = read_words(self.source)
        self.means = Means((METRIC,), bootstrap)
        self.groups: dict[Cell, Sums] = {}
        self.by: dict[str, str] = {}

    def add(self, answers: Answers) -> None:
        by = group_column(answers, self.settings.by)
        counted = answers.frame.select(
            cluster=answers.clusters(self.settings.cluster),
            group=pl.col(by) if by else pl.lit(None, pl.String),
            hits=PER * distinct(self.words),
        )
        sums = counted.group_by("cluster", "group").agg(
            pl.col("hits").sum().alias(METRIC),
            pl.len().cast(pl.Float64).alias(f"{METRIC}_of"),
        )
        self.means.add(answers, sums)
        self.groups.setdefault(answers.cell, Sums("cluster", "group")).add(sums)
        if by:
            self.by[str(answers.cell)] = by

    def scores(self) -> list[Score]:
        found = list(self.means.scores())
        for seen in self.means.seen.values():
            found += self._by_group(seen)
        return found

    def _by_group(self, seen: Seen) -> Iterator[Score]:
        whole = self.groups[seen.cell].total().drop_nulls("group")
        groups = whole["group"].unique().sort().to_list()
        if not groups:
            return
        sums = _wide(whole, groups)
        behind = sums[:, len(groups) :].sum(axis=0).astype(int)
        names = (seen.cell, seen.cell.attribute)
        for i, group in enumerate(groups):
            rate = self.bootstrap.interval(
                sums, lambda totals, i=i: group_rates(totals, 1.0)[..., i]
            )
            yield Score(*names, METRIC, rate, int(behind[i]), seen.coverage, group)
        if len(groups) < 2:
            return
        for metric, spread_of in SPREADS.items():
            interval = self.bootstrap.interval(
                sums, lambda totals, over=spread_of: over(group_rates(totals, 1.0))
            )
            yield Score(*names, metric, interval, int(behind.sum()), seen.coverage)

    def comparables(self) -> list[Comparable]:
        return self.means.comparables()

    def about(self) -> dict[str, Any]:
        return {"list": self.source.name, "words": self.words, "by": self.by}


def distinct(words: list[str]) -> pl.Expr:
    """How many of the words an answer holds, each counted once."""
    listed = pl.lit(pl.Series([words], dtype=pl.List(pl.String)))
    return words_of(pl.col("text")).list.set_intersection(listed).list.len()


def read_words(path: Path) -> list[str]:
    """The words of a list, one a line, lower-cased, in order; lines from a # on are comments.

    Raises: LmmsteerError where the file cannot be read, is empty, or a line holds no single word.
    """
    mend = "Name a text file with one word a line: analysis.competency=FILE"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LmmsteerError(f"analysis.competency={path} cannot be read: {error}.", mend) from error
    words: set[str] = set()
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        found = split(text)
        if text and len(found) != 1:
            raise LmmsteerError(f"analysis.competency={path} line {number}: {text!r}.", mend)
        words.update(found)
    if not words:
        raise LmmsteerError(f"analysis.competency={path} holds no word.", mend)
    return sorted(words)


def _wide(sums: pl.DataFrame, groups: list[str]) -> Floats:
    """[clusters, 2 * groups]: hits of each group, then answers of each group."""
    columns = [
        pl.col(value).filter(pl.col("group") == group).sum().alias(f"{value} {i}")
        for value in (METRIC, f"{METRIC}_of")
        for i, group in enumerate(groups)
    ]
    wide = sums.group_by("cluster").agg(columns).sort("cluster")
    return wide.drop("cluster").to_numpy()
