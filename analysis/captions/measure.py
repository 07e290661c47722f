"""Answers against the reference captions of their pictures.

rouge_l, meteor, spice: mean over answers, in [0, 1], of a cell and of each group of the label
column `by`. max_NAME, the Max- rule: mean over answers of max(score, score against the references
with their words of gender made neutral), so that an answer that says "person" where its references
say "man" loses nothing. NAME_change: minus unsteered's, over the clusters of both.
Answers about pictures without a reference are counted, told of and left out.
Source: MaxMETEOR and MaxSPICE, Jung, Chai and Wang, ICLR 2026 (ALA), after the captioning of SFID
(NeurIPS 2024); the metrics' own sources stand in their files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from analysis.captions.pair import Pair, largest
from analysis.captions.study import Study
from analysis.comparisons import Comparable
from analysis.frame import Answers, CellFiles
from analysis.means import Means, Seen
from analysis.scores import Score
from analysis.sentiment import ROW_COLUMNS, group_column, row_level
from analysis.settings import Analysis
from analysis.stats import Bootstrap, ratio
from analysis.sums import exact


@dataclass
class Held:
    """What was held against references of one cell: answers, those without, sums by group."""

    answers: int = 0
    without: int = 0
    by: str | None = None
    groups: list[pl.DataFrame] = field(default_factory=list)


class Captions:
    """Every cell's answers by the study's metrics; equal ones about a picture are scored once."""

    name = "captions"

    def __init__(
        self,
        cells: Iterable[CellFiles],
        settings: Analysis,
        bootstrap: Bootstrap,
        study: Study | None = None,
    ) -> None:
        self.settings, self.bootstrap, self.study = settings, bootstrap, study
        self.names: list[str] = []
        if study is not None and settings.name == self.name:
            self.names = _names(study)  # What cannot be measured is told before any work.
        self.means = Means(self.names, bootstrap)
        self.held: dict[str, Held] = {}

    def add(self, answers: Answers) -> pl.DataFrame | None:
        if self.study is None or not (captions := self.study.references.of(answers.cell.dataset)):
            return None
        if not self.names:
            self.names = self.means.names = _names(self.study)
        known = pl.DataFrame(
            {"image_id": list(captions), "references": [len(of) for of in captions.values()]},
            schema={"image_id": pl.String, "references": pl.Int64},
        )
        frame = answers.frame.join(known, on="image_id", how="left", maintain_order="left")
        self._count(answers, frame)
        pairs = frame.filter(pl.col("references").is_not_null())
        pairs = pairs.select("image_id", "text").unique(maintain_order=True)
        if pairs.is_empty():
            return self._rows(answers, frame)
        scored = self._scored(pairs, [Pair(text, captions[i]) for i, text in pairs.iter_rows()])
        frame = _joined(frame, scored)
        self._keep(answers, frame)
        return self._rows(answers, frame)

    def _count(self, answers: Answers, frame: pl.DataFrame) -> None:
        held = self.held.setdefault(str(answers.cell), Held())
        held.answers += len(frame)
        held.without += frame["references"].null_count()
        held.by = group_column(answers, self.settings.by)

    def _scored(self, pairs: pl.DataFrame, held: list[Pair]) -> pl.DataFrame:
        assert self.study is not None
        columns = {}
        for scorer in self.study.scorers:
            plain, most = largest(scorer, held)
            columns |= {scorer.name: plain, f"max_{scorer.name}": most}
        kinds = dict.fromkeys(columns, pl.Float64)
        return pairs.hstack(pl.DataFrame(columns, schema=kinds))

    def _keep(self, answers: Answers, frame: pl.DataFrame) -> None:
        by = self.held[str(answers.cell)].by
        group = pl.col(by) if by else pl.lit(None, pl.String)
        frame = frame.with_columns(cluster=answers.clusters(self.settings.cluster), group=group)
        sums = frame.group_by("cluster", "group").agg(
            *(exact(pl.col(name)).alias(name) for name in self.names),
            *(pl.col(name).count().cast(pl.Float64).alias(f"{name}_of") for name in self.names),
        )
        self.means.add(answers, sums)
        self.held[str(answers.cell)].groups.append(sums.drop_nulls("group"))

    def _rows(self, answers: Answers, frame: pl.DataFrame) -> pl.DataFrame:
        """Row-level results; of rows without a reference the scores are null."""
        absent = [name for name in self.names if name not in frame.columns]
        frame = frame.with_columns(pl.lit(None, pl.Float64).alias(name) for name in absent)
        return row_level(answers, frame, (*ROW_COLUMNS[:-1], "references", *self.names))

    def scores(self) -> list[Score]:
        found = list(self.means.scores())
        for seen in self.means.seen.values():
            found += self._groups(seen)
        self._tell()
        return found

    def _groups(self, seen: Seen) -> Iterator[Score]:
        whole = pl.concat(self.held[str(seen.cell)].groups)
        for group in whole["group"].unique().sort():
            sums = whole.filter(pl.col("group") == group).group_by("cluster")
            totals = sums.agg(pl.exclude("group").sum()).sort("cluster")
            for name in self.names:
                columns = totals.select(name, f"{name}_of").to_numpy()
                if behind := int(columns[:, 1].sum()):
                    found = self.bootstrap.interval(columns, ratio())
                    names = (seen.cell, seen.cell.attribute, name)
                    yield Score(*names, found, behind, seen.coverage, str(group))

    def _tell(self) -> None:
        for cell, held in self.held.items():
            if self.study is not None and held.without:
                self.study.say(
                    f"{cell}: {held.without:,} of {held.answers:,} answers are about pictures"
                    " without a reference caption, left out of captions"
                )

    def comparables(self) -> list[Comparable]:
        return self.means.comparables()

    def about(self) -> dict[str, Any]:
        return {
            "references": self.study.references.source if self.study else None,
            "metrics": self.names,
            "answers without a reference": {cell: h.without for cell, h in self.held.items()},
            "by": {cell: held.by for cell, held in self.held.items()},
        }


def _joined(frame: pl.DataFrame, scored: pl.DataFrame) -> pl.DataFrame:
    return frame.join(scored, on=["image_id", "text"], how="left", maintain_order="left")


def _names(study: Study) -> list[str]:
    names = [scorer.name for scorer in study.scorers]
    return [name for one in names for name in (one, f"max_{one}")]
