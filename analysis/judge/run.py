"""One judge over one output folder: what is asked, what it costs, and the scores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import polars as pl

from analysis import comparisons, scores
from analysis.frame import Output
from analysis.judge import ask, batch, local
from analysis.judge.accuracy import Accuracy
from analysis.judge.ask import Asker
from analysis.judge.client import Client
from analysis.judge.counting import Counting
from analysis.judge.estimate import Estimate, price
from analysis.judge.question import Question
from analysis.judge.settings import LOCAL, JudgeKeys, Judging, check
from analysis.judge.study import Study, with_parts
from analysis.judge.verdicts import Verdicts
from analysis.stats import Bootstrap, Permutation
from lmmsteer.errors import RunFailed
from lmmsteer.store import Store

STUDIES = {"judge": Counting, "accuracy": Accuracy}
NAMES = tuple(STUDIES)


def run(
    store: Store,
    settings: Judging,
    say: Callable[[str], None] = print,
    open_local: local.Open | None = None,
) -> list[str]:
    """Do the step that `analysis.judge.step` names and return the files it wrote.

    open_local: opens the model of a folder, for base_url=local.

    Raises: RunFailed where the judge answers no more, or fails on more rows than
    `max_error_share`; LmmsteerError for keys that cannot work or a partial output without
    allow_partial.
    """
    check(settings.judge)
    comparisons.refuse_unknown(settings)
    if settings.judge.base_url != LOCAL:
        return _Run(store, settings, say, Client).step()
    assert open_local is not None
    assert settings.judge.model is not None
    local.check(settings.judge)
    model = open_local(settings.judge.model)
    # Verdicts are those of the weights, wherever they lie.
    settings = replace(settings, judge=replace(settings.judge, model=model.name))
    return _Run(store, settings, say, partial(local.LocalClient, model)).step()


class _Run:
    def __init__(
        self,
        store: Store,
        settings: Judging,
        say: Callable[[str], None],
        client: Callable[[JudgeKeys], ask.Client],
    ) -> None:
        self.store, self.settings, self.say, self.client = store, settings, say, client
        self.keys: JudgeKeys = settings.judge
        self.output = Output(store)
        if not settings.allow_partial:
            self.output.refuse_partial()
        self.bootstrap = Bootstrap(settings.bootstrap, settings.seed)
        make = STUDIES[settings.name]
        self.study: Study = make(with_parts(self.output), settings, self.bootstrap)
        self.log = Verdicts(store, self.study.setup)

    def step(self) -> list[str]:
        steps = {
            "ask": self._ask,
            "plan": self._plan,
            "export": self._export,
            "import": self._import,
            "score": self._score,
        }
        return steps[self.keys.step]()

    def _open(self) -> Iterator[Question]:
        return self.study.questions(self.output, self.log.settled(self.keys.retry))

    def _plan(self) -> list[str]:
        settled = self.log.settled(self.keys.retry)
        found = self.log.read()
        for line in self._estimate(settled, found).lines(self.keys):
            self.say(line)
        self.say(f"{len(settled):,} questions are settled already")
        return []

    def _estimate(self, settled: set[str], found: pl.DataFrame) -> Estimate:
        """The rule of thumb for what is left, times what it was off by for what was answered."""
        left = [(i, o) for _, i, o in self.study.sizes(self.output, settled)]
        ours = (sum(i for i, _ in left), sum(o for _, o in left))
        spent = {
            key: (i, o)
            for key, i, o in found.filter(
                pl.col("error_kind").is_null() & (pl.col("input_tokens") > 0)
            )
            .select("key", "input_tokens", "output_tokens")
            .iter_rows()
        }
        known = [
            (i, o, *spent[key])
            for key, i, o in (self.study.sizes(self.output, set()) if spent else ())
            if key in spent
        ]
        if not known:
            return Estimate(len(left), *ours)
        totals = [sum(column) for column in zip(*known, strict=True)]
        return Estimate(
            len(left), ours[0] * totals[2] / totals[0], ours[1] * totals[3] / totals[1], len(known)
        )

    def _ask(self) -> list[str]:
        client = self.client(self.keys)
        questions = self._open()
        first = next(questions, None)
        if first is not None:
            self.log.begin()
            asker = Asker(client, self.study.setup, self.keys, self.log, self.say)
            tally = asyncio.run(asker.run(_chained(first, questions)))
            self.say(
                f"judge: {tally.judged} verdicts, {tally.errors.total()} errors;"
                f" {self._spent(tally.input_tokens, tally.output_tokens)}"
            )
        return self._score()

    def _spent(self, input_tokens: int, output_tokens: int) -> str:
        cost = price(input_tokens, output_tokens, self.keys)
        paid = "price unknown" if cost is None else f"price {cost:,.4f}"
        return f"{input_tokens:,} input and {output_tokens:,} output tokens, {paid}"

    def _export(self) -> list[str]:
        questions = self._open()
        first = next(questions, None)
        if first is None:
            self.say("judge: every question is settled, nothing to export")
            return []
        self.log.begin()
        return batch.export(self.store, self.study.setup, _chained(first, questions), self.log)

    def _import(self) -> list[str]:
        self.log.begin()
        found = batch.take(self.keys.results, self.study.setup, self._open(), self.log)
        batch.described(found, self.say)
        return self._score()

    def _score(self) -> list[str]:
        """Scores and row-level results, unless too many rows have no verdict."""
        verdicts = self.log.read()
        cells = self._add(verdicts)
        self._refuse(verdicts)
        table = scores.table(self.study.scores())
        record = {
            "settings": asdict(self.settings),
            "cells": cells,
            "notes": [],
            self.study.name: {**self.study.about(), **self._accounts(verdicts)},
        }
        self.say(
            f"intervals: {self.settings.bootstrap} bootstrap resamples by"
            f" {self.settings.cluster}; tests: {self.settings.permutations} permutations,"
            f" {self.settings.correction}; seed {self.settings.seed}"
        )
        tables = {f"scores/{self.study.name}.parquet": table}
        compared = self._compared()
        if not compared.is_empty():
            tables[f"scores/comparisons/{self.study.name}.parquet"] = compared
        rows = self.study.rows()
        if rows is not None:
            tables[f"scores/{self.study.name}.rows.parquet"] = rows
        return [scores.write(self.store, path, made, record) for path, made in tables.items()]

    def _compared(self) -> pl.DataFrame:
        """Paired tests between methods, over the pictures that both have verdicts for."""
        settings = self.settings
        permutation = Permutation(settings.permutations, settings.seed)
        found = self.study.comparables()
        return comparisons.table(found, self.bootstrap, permutation, settings.correction)

    def _add(self, verdicts: pl.DataFrame) -> list[dict[str, Any]]:
        self.study.use(self.output, verdicts)
        seen = []
        for files in with_parts(self.output):
            answers = self.output.load(files)
            self.study.add(answers)
            record = {"cell": str(files.cell), "answered": len(answers.frame)}
            record |= {"failed": answers.failed, "planned": files.planned}
            seen.append(record | {"coverage": answers.coverage, "verified": files.verified})
        return seen

    def _refuse(self, verdicts: pl.DataFrame) -> None:
        standing = self.study.standing
        if standing.unasked and not self.settings.allow_partial:
            raise RunFailed(
                f"{standing.unasked} of {standing.rows} rows have no verdict yet.",
                "Ask the judge: analysis.judge.step=ask\n"
                "Or score what is there: allow_partial=true",
            )
        share = standing.errors / standing.rows if standing.rows else 0.0
        if share > self.keys.max_error_share:
            failed = verdicts.drop_nulls("error_kind")
            kinds = failed["error_kind"].value_counts(sort=True)
            named = ", ".join(f"{number} {kind}" for kind, number in kinds.iter_rows())
            raise RunFailed(
                f"The judge failed on {standing.errors} of {standing.rows} rows"
                f" (questions by kind: {named}; one of them: {failed['error'][0]}); no scores were"
                " written.",
                "The same command asks outages again, analysis.judge.retry=true also answers"
                " that could not be used.\n"
                f"Or accept them: analysis.judge.max_error_share={share:.4f}",
            )

    def _accounts(self, verdicts: pl.DataFrame) -> dict[str, Any]:
        standing = self.study.standing
        spent = [int(verdicts[name].sum()) for name in ("input_tokens", "output_tokens")]
        return {
            "rows": standing.rows,
            "judged": standing.judged,
            "errors": standing.errors,
            "input_tokens": spent[0],
            "output_tokens": spent[1],
            "price": price(spent[0], spent[1], self.keys),
        }


def _chained(first: Question, rest: Iterator[Question]) -> Iterator[Question]:
    yield first
    yield from rest
