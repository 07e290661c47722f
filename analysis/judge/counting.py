"""Mentions of an attribute, counted by a language model, beside the bigrams of the same answers.

per_1k = 1000 * sum count_effective / judged rows; count_effective: the spans that the judge listed
and that are in the text. change_percent: against the unsteered cell of the same model and data set,
over the pictures that both have. bigrams_per_1k: what `mentions` counts in the same rows, for words
have several senses (methods differ tenfold on race).
Source: Ratzlaff et al. 2024 (arXiv 2411.12590), section 3.2.3 and Table 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import polars as pl

from analysis.comparisons import Comparable
from analysis.frame import Answers, CellFiles, Output
from analysis.judge import prompts as prompt_files
from analysis.judge.answer import count_of
from analysis.judge.estimate import text_tokens
from analysis.judge.question import Question, digest, setup
from analysis.judge.settings import Judging
from analysis.judge.study import Standing, covered, named, sampled, with_parts
from analysis.measure import Counted, Rates, by_cluster
from analysis.mentions import counts, find_targets
from analysis.scores import Score
from analysis.stats import Bootstrap, ratio

REPLY_TOKENS = 40.0
ROW = ("row_id", "image_id", "prompt_id", "seed")
VERDICT = ("spans", "count", "count_effective", "mismatch", "error_kind", "error")


class Counting:
    """The study `judge`: every answer, asked about each attribute its cell is measured on."""

    name = "judge"

    def __init__(self, cells: list[CellFiles], settings: Judging, bootstrap: Bootstrap) -> None:
        self.settings = settings
        self.bootstrap = bootstrap
        self.targets = find_targets(cells, settings)
        self.prompts = prompt_files.read(settings.judge.prompts)
        self.prompts.require(list(self.targets))
        answer = prompt_files.counting_format()
        self.setup = setup(self.name, settings.judge, self.prompts, answer)
        self.standing = Standing()
        self.rates = Rates("per_1k", bootstrap)
        self.bigrams = Rates("bigrams_per_1k", bootstrap)
        self._extra: list[Score] = []
        self._rows: list[pl.DataFrame] = []
        self._verdicts = pl.DataFrame()

    def questions(self, output: Output, settled: set[str]) -> Iterator[Question]:
        for key, attribute, row_id, text in self._open(output, settled):
            messages = partial(self.prompts.counting, attribute, text)
            yield Question(key, attribute, row_id, messages, partial(count_of, text=text))

    def sizes(self, output: Output, settled: set[str]) -> Iterator[tuple[str, float, float]]:
        around = {
            name: sum(text_tokens(turn["content"]) for turn in self.prompts.counting(name, ""))
            for name in self.targets
        }
        for key, attribute, _, text in self._open(output, settled):
            yield key, around[attribute] + text_tokens(text), REPLY_TOKENS

    def _open(self, output: Output, settled: set[str]) -> Iterator[tuple[str, str, str, str]]:
        """Key, attribute, row id and text of every question without a verdict, each once."""
        seen = set(settled)
        for files in with_parts(output):
            frame = sampled(output.load(files).frame, self.settings.judge.share)
            for attribute in self._attributes(files):
                for row_id, text in frame.select("row_id", "text").iter_rows():
                    key = digest(attribute, text)
                    if key not in seen:
                        seen.add(key)
                        yield key, attribute, row_id, text

    def _attributes(self, files: CellFiles) -> list[str]:
        return list(self.targets) if files.attribute == "none" else [files.attribute]

    def use(self, output: Output, verdicts: pl.DataFrame) -> None:
        self._verdicts = verdicts

    def add(self, answers: Answers) -> None:
        frame = sampled(answers.frame, self.settings.judge.share)
        frame = frame.with_columns(cluster=answers.clusters(self.settings.cluster))
        for attribute in self._attributes(answers.files):
            keys = [digest(attribute, text) for text in frame["text"]]
            keyed = frame.with_columns(key=pl.Series(keys, dtype=pl.String()))
            joined = keyed.join(self._verdicts, on="key", how="left", maintain_order="left")
            self._add(answers, attribute, joined)

    def _add(self, answers: Answers, attribute: str, frame: pl.DataFrame) -> None:
        base = answers.files.attribute
        name = attribute if base == "none" else answers.cell.attribute
        self.standing.see(frame, "count_effective")
        self._rows.append(named(answers, frame.select(*ROW, *VERDICT), name))
        judged = frame.filter(pl.col("count_effective").is_not_null())
        coverage = covered(answers, len(judged))
        cell = answers.cell
        sums = by_cluster(judged, pl.col("count_effective"))
        self.rates.add(Counted(cell, name, attribute, sums, coverage))
        targets = {attribute: self.targets[attribute]}
        found = counts(judged.select("text", "cluster"), targets)
        sums = by_cluster(found, pl.col(attribute))
        self.bigrams.add(Counted(cell, name, attribute, sums, coverage))
        settled = frame.filter(judged_or_error())
        for metric, among, hit in (
            ("mismatch_share", judged, pl.col("mismatch")),
            ("error_share", settled, pl.col("error_kind").is_not_null()),
        ):
            columns = by_cluster(among, hit).select("hits", "rows").cast(pl.Float64).to_numpy()
            share = self.bootstrap.interval(columns, ratio())
            self._extra.append(Score(cell, name, metric, share, len(among), coverage))

    def scores(self) -> list[Score]:
        bigrams = [s for s in self.bigrams.scores() if s.metric == self.bigrams.metric]
        return [*self.rates.scores(), *bigrams, *self._extra]

    def comparables(self) -> list[Comparable]:
        return [*self.rates.comparables(), *self.bigrams.comparables()]

    def rows(self) -> pl.DataFrame | None:
        return pl.concat(self._rows) if self._rows else None

    def about(self) -> dict[str, Any]:
        targets = {name: found.to_json() for name, found in self.targets.items()}
        return {"setup": self.setup.record, "targets": targets}


def judged_or_error() -> pl.Expr:
    """Rows that are settled, either way."""
    return pl.col("count_effective").is_not_null() | pl.col("error_kind").is_not_null()
