"""What a kind of judge asks about an output folder, and how its verdicts become scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from analysis.comparisons import Comparable
from analysis.frame import Answers, CellFiles, Output
from analysis.judge.question import Question, Setup, chosen
from analysis.scores import Score


@dataclass
class Standing:
    """Rows by what the judge made of them. unasked: neither a verdict nor an error yet."""

    rows: int = 0
    judged: int = 0
    errors: int = 0

    @property
    def unasked(self) -> int:
        return self.rows - self.judged - self.errors

    def see(self, frame: pl.DataFrame, judged: str) -> None:
        """Count the rows of a frame with the columns error_kind and `judged`."""
        self.rows += len(frame)
        self.judged += frame[judged].count()
        self.errors += frame["error_kind"].count()


class Study(Protocol):
    """A kind of judge. A measure (analysis/measure.py) that also knows what to ask."""

    name: str
    setup: Setup
    standing: Standing

    def questions(self, output: Output, settled: set[str]) -> Iterator[Question]:
        """What has no verdict yet, each once."""
        ...

    def sizes(self, output: Output, settled: set[str]) -> Iterator[tuple[str, float, float]]:
        """Key, input and output tokens, estimated, of the same questions, without making them."""
        ...

    def use(self, output: Output, verdicts: pl.DataFrame) -> None:
        """The verdicts that `add` joins with the answers of an output."""
        ...

    def add(self, answers: Answers) -> None: ...

    def scores(self) -> list[Score]: ...

    def comparables(self) -> list[Comparable]: ...

    def rows(self) -> pl.DataFrame | None: ...

    def about(self) -> dict[str, Any]: ...


def sampled(frame: pl.DataFrame, share: float) -> pl.DataFrame:
    """The rows of the sample: all of them, or the share that `chosen` takes."""
    if share >= 1:
        return frame
    return frame.filter([chosen(row_id, share) for row_id in frame["row_id"]])


def covered(answers: Answers, judged: int) -> float | None:
    """The share of the planned rows that have a verdict."""
    if answers.coverage is None:
        return None
    seen = len(answers.frame) + answers.failed
    return answers.coverage * judged / seen if seen else 0.0


def named(answers: Answers, frame: pl.DataFrame, attribute: str) -> pl.DataFrame:
    """Row-level results with the names of their cell in front."""
    cell = answers.cell
    names = {"model": cell.model, "method": cell.method, "attribute": attribute}
    names["dataset"] = cell.dataset
    columns = [pl.lit(value).alias(name) for name, value in names.items()]
    return frame.select(*columns, pl.all())


def with_parts(output: Output) -> list[CellFiles]:
    """The cells that have answers."""
    return [files for files in output.cells if files.parts]
