"""What the answers of each method cost: worker seconds, tokens a second, peak device memory.

seconds_per_answer = sum of worker seconds / answers (seconds_per_1k: of 1,000 answers);
tokens_per_second = sum of new tokens / sum of worker seconds; peak_memory: the highest that the
device (a processor: its worker) took for any part, in GiB. seconds_ratio, tokens_per_second_ratio
and peak_memory_ratio are divided by those of the unsteered cell of the same model and data set,
over the parts that both answered on the same kind of device, neither as a worker's first of its
model (what is prepared then is no method's): other pairs are never compared.
Seconds are known by part, so parts are what is resampled; a peak has no interval. `group` is the
device's name. What a lost worker or a dropped answer took is not in it.
Source: Jung, Chai and Wang, ICLR 2026 (ALA) report time and memory against unsteered alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.comparisons import Comparable
from analysis.frame import BASELINE, Answers, CellFiles
from analysis.measure import PER
from analysis.scores import Score
from analysis.settings import Analysis
from analysis.stats import Bootstrap, Floats, Interval, ratio
from lmmsteer.schema import Cell

GIB = float(1 << 30)
SCHEMA = pl.Schema(
    {
        "part": pl.String(),
        "device": pl.String(),
        "seconds": pl.Float64(),
        "answers": pl.Float64(),
        "tokens": pl.Float64(),
        "memory": pl.Float64(),
        "rows": pl.Int64(),
        "cold": pl.Boolean(),
    }
)


@dataclass(frozen=True)
class Rate:
    """A quantity over another, scaled: how it is named, and how its ratio to unsteered is."""

    name: str
    columns: tuple[str, str]
    scale: float = 1.0
    ratio: str | None = None


RATES = (
    Rate("seconds_per_answer", ("seconds", "answers"), 1.0, "seconds_ratio"),
    Rate("seconds_per_1k", ("seconds", "answers"), PER),
    Rate("tokens_per_second", ("tokens", "seconds"), 1.0, "tokens_per_second_ratio"),
)


@dataclass(frozen=True)
class Spent:
    """What a cell's parts took, a row for each; planned: the rows of its manifest."""

    cell: Cell
    base: str  # the attribute without what a sweep varied
    parts: pl.DataFrame
    planned: int | None
    unknown: int  # parts of which no log says what they took

    @property
    def devices(self) -> list[str]:
        return sorted(self.parts["device"].unique())

    def coverage(self, frame: pl.DataFrame) -> float | None:
        return float(frame["rows"].sum()) / self.planned if self.planned else None


class Cost:
    """Seconds, tokens and memory of every cell whose work the logs have."""

    name = "cost"

    def __init__(
        self, cells: Iterable[CellFiles], settings: Analysis, bootstrap: Bootstrap
    ) -> None:
        self.bootstrap = bootstrap
        self.spent: dict[Cell, Spent] = {}

    def add(self, answers: Answers) -> None:
        files = answers.files
        if files.cell in self.spent:
            return
        names = [part.path.rpartition("/")[2] for part in files.parts]
        work = answers.work()
        rows = [
            (w.part, w.device, w.seconds, w.rows - w.failed, w.tokens, w.memory, w.rows, w.cold)
            for name in names
            if (w := work.get(name)) is not None
        ]
        frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
        unknown = len(names) - len(rows)
        self.spent[files.cell] = Spent(files.cell, files.attribute, frame, files.planned, unknown)

    def scores(self) -> list[Score]:
        return [score for spent in self.spent.values() for score in self._scores(spent)]

    def _scores(self, spent: Spent) -> Iterator[Score]:
        if spent.parts.is_empty():
            return
        base = self._baseline(spent)
        both = None if base is None else _paired(spent.parts, base.parts)
        for group in (None, *spent.devices):
            yield from self._values(spent, _of(spent.parts, group), group)
            if both is not None and not (paired := _of(both, group)).is_empty():
                yield from self._ratios(spent, paired, group)

    def _values(self, spent: Spent, frame: pl.DataFrame, group: str | None) -> Iterator[Score]:
        for rate in RATES:
            sums = frame.select(rate.columns).to_numpy()
            found = self.bootstrap.interval(sums, ratio(rate.scale))
            yield self._score(spent, rate.name, found, frame, group)
        peak = frame["memory"].max()
        if isinstance(peak, float):
            yield self._score(spent, "peak_memory", Interval(peak / GIB), frame, group)

    def _ratios(self, spent: Spent, both: pl.DataFrame, group: str | None) -> Iterator[Score]:
        for rate in RATES:
            if rate.ratio is not None:
                columns = [*rate.columns, *(f"{name}_right" for name in rate.columns)]
                found = self.bootstrap.interval(both.select(columns).to_numpy(), times)
                yield self._score(spent, rate.ratio, found, both, group)
        peaks = both.drop_nulls(["memory", "memory_right"])
        if not peaks.is_empty():
            ours, theirs = (peaks[name].to_numpy().max() for name in ("memory", "memory_right"))
            found = Interval(float(ours / theirs))
            yield self._score(spent, "peak_memory_ratio", found, peaks, group)

    def _score(
        self, spent: Spent, metric: str, found: Interval, frame: pl.DataFrame, group: str | None
    ) -> Score:
        cell, rows = spent.cell, int(frame["rows"].sum())
        coverage = spent.coverage(frame)
        return Score(cell, cell.attribute, metric, found, rows, coverage, group)

    def _baseline(self, spent: Spent) -> Spent | None:
        place = spent.cell.model, spent.cell.dataset
        for other in self.spent.values():
            same = (other.cell.model, other.cell.dataset) == place
            if same and other.cell.method == BASELINE and spent.cell.method != BASELINE:
                return other
        return None

    def comparables(self) -> list[Comparable]:
        """Seconds of 1,000 answers, of the parts that can be compared; one that another device
        answered is another part."""
        found = []
        for spent in self.spent.values():
            cluster = pl.concat_str("part", "device", separator=" ")
            warm = spent.parts.filter(~pl.col("cold"))
            sums = warm.select("seconds", "answers", cluster=cluster)
            sums = sums.select("cluster", "seconds", "answers")
            names = (spent.cell, spent.cell.attribute, spent.base, "seconds_per_1k")
            if not sums.is_empty():
                found.append(Comparable(*names, sums, ratio(PER)))
        return found

    def about(self) -> dict[str, Any]:
        devices = {str(s.cell): s.devices for s in self.spent.values()}
        pairs = [(s, self._baseline(s)) for s in self.spent.values()]
        apart = [
            str(s.cell)
            for s, base in pairs
            if base is not None and _paired(s.parts, base.parts).is_empty()
        ]
        return {
            "unit": "worker seconds; GiB of 2^30 bytes",
            "devices": devices,
            "parts without a log": {str(s.cell): s.unknown for s in self.spent.values()},
            "cold parts, not compared": {
                str(s.cell): int(s.parts["cold"].sum()) for s in self.spent.values()
            },
            "no part to compare with unsteered": apart,
        }


def _of(frame: pl.DataFrame, device: str | None) -> pl.DataFrame:
    return frame if device is None else frame.filter(pl.col("device") == device)


def _paired(ours: pl.DataFrame, theirs: pl.DataFrame) -> pl.DataFrame:
    """The parts of both that the same kind of device answered, and none of them cold."""
    warm = ~pl.col("cold")
    ours, theirs = ours.filter(warm), theirs.filter(warm)
    return ours.join(theirs, on=["part", "device"], how="inner", maintain_order="left")


def times(totals: Floats) -> Floats:
    """(a / b) / (c / d) of the columns (a, b, c, d)."""
    return (totals[..., 0] / totals[..., 1]) / (totals[..., 2] / totals[..., 3])
