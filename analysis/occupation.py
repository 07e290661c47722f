"""Occupation mentions: how many answers name the annotated occupation; what steering costs.

mentions = 1000 * answers that hold the occupation / answered rows with an occupation label: whole
words, in any case, underscores and hyphens as spaces. change_percent: against the unsteered cell of
the same model and data set, over the pictures that both answered.
Source: Ratzlaff et al. 2024 (arXiv 2411.12590), section 4.4 and Table 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from analysis.comparisons import Comparable
from analysis.frame import Answers, CellFiles
from analysis.measure import Counted, Rates, by_cluster
from analysis.scores import Score
from analysis.settings import Analysis
from analysis.stats import Bootstrap


class Occupation:
    """Counts the answers of every cell that name the picture's occupation."""

    name = "occupation"

    def __init__(
        self, cells: Iterable[CellFiles], settings: Analysis, bootstrap: Bootstrap
    ) -> None:
        self.settings = settings
        self.rates = Rates("mentions", bootstrap)

    def add(self, answers: Answers) -> None:
        if not answers.labelled("occupation"):
            return
        frame = answers.frame.with_columns(cluster=answers.clusters(self.settings.cluster))
        sums = by_cluster(frame.filter(pl.col("occupation").is_not_null()), held())
        cell = answers.cell
        self.rates.add(
            Counted(cell, cell.attribute, answers.files.attribute, sums, answers.coverage)
        )

    def scores(self) -> list[Score]:
        return self.rates.scores()

    def comparables(self) -> list[Comparable]:
        return self.rates.comparables()

    def about(self) -> dict[str, Any]:
        return {"unit": "answers per 1k answered rows with an occupation label"}


def held() -> pl.Expr:
    """Whether `text` holds `occupation` as whole words."""
    text, occupation = spaced(pl.col("text")), spaced(pl.col("occupation"))
    return text.str.contains(occupation, literal=True)


def spaced(text: pl.Expr) -> pl.Expr:
    """Lower-cased words between single spaces; marks other than _ and - stand by themselves."""
    plain = text.str.to_lowercase().str.replace_all(r"[_\-‐‑]", " ")
    apart = plain.str.replace_all(r"[^\p{L}\p{M}\p{N}\s]+", " . ")
    return pl.format(" {} ", apart.str.replace_all(r"\s+", " ").str.strip_chars())
