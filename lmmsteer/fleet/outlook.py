"""How long work will take, from shards that were done before: an estimate and its 95% interval.

With k recorded shards of n_i rows and t_i seconds on one card, and R rows to do:

    s     = sum(t_i) / sum(n_i)                         seconds for a row
    C     = s R                                         card-seconds
    m     = R / mean(n_i)                               R in recorded shards
    v     = sum((t_i - s n_i)^2) / (k - 1)              how shards of one size differ
    Var C = v m (1 + m / k)                             theirs, and that of s itself
    C -+ t(k - 1) sqrt(Var C), t the 97.5% quantile of Student's distribution

A sum over several recorded paces adds estimates and variances, with the degrees of freedom of
Welch and Satterthwaite. W workers need C / W. The interval knows how shards differ from each other,
not that another machine, method or length of answers may be slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, sqrt

from lmmsteer.fleet.logs import Done

T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Forecast:
    """Seconds, and how sure they are. variance: None where a single shard says nothing of it."""

    seconds: float = 0.0
    variance: float | None = 0.0
    degrees: float = inf

    @property
    def low(self) -> float | None:
        half = self._half()
        return None if half is None else max(0.0, self.seconds - half)

    @property
    def high(self) -> float | None:
        half = self._half()
        return None if half is None else self.seconds + half

    def _half(self) -> float | None:
        return None if self.variance is None else t975(self.degrees) * sqrt(self.variance)

    def times(self, factor: float) -> Forecast:
        """The same in another unit, or shared among workers."""
        variance = None if self.variance is None else self.variance * factor**2
        return Forecast(self.seconds * factor, variance, self.degrees)

    def numbers(self) -> dict[str, float | None]:
        """As JSON has it, in four digits."""
        values = {"estimate": self.seconds, "low": self.low, "high": self.high}
        return {k: None if v is None else float(f"{v:.4g}") for k, v in values.items()}


@dataclass(frozen=True, eq=False)
class Pace:
    """Recorded shards that stand for work to be done; the same object, the same shards."""

    done: Sequence[Done]

    @property
    def rows_per_second(self) -> float:
        """Of one worker: all rows over all seconds, so that slow shards weigh as they last."""
        return sum(d.rows for d in self.done) / sum(d.seconds for d in self.done)

    def forecast(self, rows: int) -> Forecast:
        """Card-seconds for so many rows."""
        if not rows:
            return Forecast()
        shards, second = len(self.done), 1 / self.rows_per_second
        if shards < 2:
            return Forecast(second * rows, None)
        mean = sum(d.rows for d in self.done) / shards
        spread = sum((d.seconds - second * d.rows) ** 2 for d in self.done) / (shards - 1)
        left = rows / mean
        return Forecast(second * rows, spread * left * (1 + left / shards), shards - 1)


def total(work: Iterable[tuple[Pace, int]]) -> Forecast:
    """Card-seconds for rows at several paces; rows at one pace err together."""
    rows: dict[Pace, int] = {}
    for pace, more in work:
        rows[pace] = rows.get(pace, 0) + more
    return summed(pace.forecast(count) for pace, count in rows.items())


def summed(forecasts: Iterable[Forecast]) -> Forecast:
    """Independent forecasts added up."""
    parts = list(forecasts)
    seconds = sum(part.seconds for part in parts)
    variances = [part.variance for part in parts if part.variance is not None]
    if len(variances) < len(parts):
        return Forecast(seconds, None)
    below = sum(v**2 / part.degrees for v, part in zip(variances, parts, strict=True))
    return Forecast(seconds, sum(variances), sum(variances) ** 2 / below if below else inf)


def t975(degrees: float) -> float:
    """The 97.5% quantile of Student's t: tabulated to 30 degrees, then its expansion to 1/n^2."""
    if degrees <= len(T975):
        return T975[max(1, int(degrees)) - 1]
    return 1.95996 + 2.37227 / degrees + 2.82250 / degrees**2
