"""Answers to a direct question against the label: accuracy, its worst group, and D_WCA.

The prompt analysis.direct asks for the label column analysis.by ("What is the gender of this
person?"). Classes are the labels that occur; underscores and hyphens are spaces. An answer is right
where, as whole words, it names its picture's label and no other; a class whose name holds another's
("very old", "old") counts as named alone. In per cent of answered rows with a label:
accuracy, of the whole and of each group g; worst_group_accuracy = min_g Acc_g;
D_WCA = min_g Acc_g(method) - min_g Acc_g(unsteered), signed, in points, best 0, over the clusters
of both and the groups of both.
Source: Jung, Chai and Wang, ICLR 2026 (ALA); their definition of D_WCA is in an appendix that could
not be read, so the equation is our reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from analysis.comparisons import Comparable
from analysis.frame import BASELINE, Answers, CellFiles
from analysis.means import lower
from analysis.scores import Score
from analysis.sentiment import group_column
from analysis.settings import Analysis
from analysis.stats import Bootstrap, Floats, group_rates, ratio
from analysis.words import split, words_of
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Cell


@dataclass
class Asked:
    """Equal direct answers of one cell, counted: cluster, label, said (its words), rows."""

    cell: Cell
    attribute: str  # without what a sweep varied
    coverage: float | None
    frames: list[pl.DataFrame] = field(default_factory=list)


class Direct:
    """Accuracy of the answers to the direct question, in every cell that has labels."""

    name = "direct"

    def __init__(
        self, cells: Iterable[CellFiles], settings: Analysis, bootstrap: Bootstrap
    ) -> None:
        self.settings, self.bootstrap = settings, bootstrap
        self.asked: dict[Cell, Asked] = {}
        if settings.direct is None and settings.name == self.name:
            raise LmmsteerError(
                "analysis=direct needs the id of the prompt that asks for the label.",
                "Name it and the label: analysis.direct=PROMPT_ID analysis.by=gender",
            )

    def add(self, answers: Answers) -> None:
        if self.settings.direct is None:
            return
        by = group_column(answers, self.settings.by)
        if by is None:
            return
        frame = answers.frame.filter(
            (pl.col("prompt_id") == self.settings.direct) & pl.col(by).is_not_null()
        )
        if frame.is_empty():
            return
        counted = frame.group_by(
            cluster=answers.clusters(self.settings.cluster),
            label=words_of(pl.col(by).str.replace_all("[_-]", " ")).list.join(" "),
            said=words_of(pl.col("text").str.replace_all("[_-]", " ")).list.join(" "),
        ).agg(rows=pl.len().cast(pl.Float64))
        made = Asked(answers.cell, answers.files.attribute, answers.coverage)
        self.asked.setdefault(answers.cell, made).frames.append(counted)

    def scores(self) -> list[Score]:
        frames = {cell: pl.concat(asked.frames) for cell, asked in self.asked.items()}
        labels = sorted({label for frame in frames.values() for label in frame["label"]})
        judged = {cell: _judged(frame, labels) for cell, frame in frames.items()}
        found: list[Score] = []
        for asked in self.asked.values():
            found += self._cell(asked, judged[asked.cell])
            base = self._baseline(asked)
            if base is not None:
                coverage = lower(asked.coverage, base.coverage)
                found += self._change(asked, coverage, judged[asked.cell], judged[base.cell])
        return found

    def _cell(self, asked: Asked, judged: pl.DataFrame) -> Iterator[Score]:
        groups = judged["label"].unique().sort().to_list()
        sums = _wide(judged, groups).drop("cluster").to_numpy()
        behind = sums[:, len(groups) :].sum(axis=0).astype(int)
        names = (asked.cell, asked.cell.attribute)
        rows = int(behind.sum())
        whole = self.bootstrap.interval(sums, _overall)
        yield Score(*names, "accuracy", whole, rows, asked.coverage)
        for i, group in enumerate(groups):
            columns = sums[:, [i, len(groups) + i]]
            of_group = self.bootstrap.interval(columns, _overall)
            yield Score(*names, "accuracy", of_group, int(behind[i]), asked.coverage, group)
        worst = self.bootstrap.interval(sums, _worst)
        yield Score(*names, "worst_group_accuracy", worst, rows, asked.coverage)

    def _change(
        self, asked: Asked, coverage: float | None, ours: pl.DataFrame, base: pl.DataFrame
    ) -> Iterator[Score]:
        groups = sorted(set(ours["label"]) & set(base["label"]))
        if not groups:
            return
        both = _wide(ours, groups).join(
            _wide(base, groups), on="cluster", how="inner", maintain_order="left"
        )
        if both.is_empty():
            return
        sums = both.drop("cluster").to_numpy()
        rows = int(sums[:, len(groups) : 2 * len(groups)].sum())
        found = self.bootstrap.interval(sums, _worst_change)
        yield Score(asked.cell, asked.cell.attribute, "D_WCA", found, rows, coverage)

    def _baseline(self, asked: Asked) -> Asked | None:
        if asked.cell.method == BASELINE:
            return None
        place, attributes = (asked.cell.model, asked.cell.dataset), (asked.attribute, "none")
        for other in self.asked.values():
            same = (other.cell.model, other.cell.dataset) == place
            if same and other.cell.method == BASELINE and other.attribute in attributes:
                return other
        return None

    def comparables(self) -> list[Comparable]:
        labels = sorted(
            {label for a in self.asked.values() for f in a.frames for label in f["label"]}
        )
        found = []
        for cell, asked in self.asked.items():
            judged = _judged(pl.concat(asked.frames), labels).group_by("cluster")
            sums = judged.agg(pl.col("right", "rows").sum()).sort("cluster")
            names = (cell, cell.attribute, asked.attribute, "accuracy")
            found.append(Comparable(*names, sums, ratio(100)))
        return found

    def about(self) -> dict[str, Any]:
        return {"prompt": self.settings.direct, "unit": "per cent of answered rows with a label"}


def named(said: str, labels: list[str]) -> set[str]:
    """The labels whose words stand in `said`, longer ones first; their words count once."""
    text, found = f" {' '.join(split(said))} ", set()
    for label in sorted(labels, key=lambda label: (-len(label.split()), label)):
        while f" {label} " in text:
            found.add(label)
            text = text.replace(f" {label} ", " | ", 1)
    return found


def _judged(frame: pl.DataFrame, labels: list[str]) -> pl.DataFrame:
    """cluster, label, right, rows; every different answer is read once."""
    said = frame["said"].unique().to_list()
    alone = [found.pop() if len(found := named(text, labels)) == 1 else None for text in said]
    read = pl.DataFrame({"said": said, "told": pl.Series(alone, dtype=pl.String)})
    right = (pl.col("told") == pl.col("label")).fill_null(False)
    judged = frame.join(read, on="said", how="left").with_columns(right=right * pl.col("rows"))
    return judged.group_by("cluster", "label").agg(pl.col("right", "rows").sum())


def _wide(judged: pl.DataFrame, groups: list[str]) -> pl.DataFrame:
    """cluster, right answers of each group, answers of each group."""
    columns = [
        pl.col(value).filter(pl.col("label") == group).sum().alias(f"{value} {i}")
        for value in ("right", "rows")
        for i, group in enumerate(groups)
    ]
    return judged.group_by("cluster").agg(columns).sort("cluster")


def _overall(totals: Floats) -> Floats:
    right, rows = np.split(totals, 2, axis=-1)
    return 100 * right.sum(axis=-1) / rows.sum(axis=-1)


def _worst(totals: Floats) -> Floats:
    return group_rates(totals, 100.0).min(axis=-1)


def _worst_change(totals: Floats) -> Floats:
    ours, base = np.split(totals, 2, axis=-1)
    return _worst(ours) - _worst(base)
