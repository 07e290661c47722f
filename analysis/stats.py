"""Intervals, paired tests, corrections and effect sizes, clustered by picture: all are made here.

Answers about one picture are not independent, so pictures are resampled, never rows. Every
statistic here is a function of column totals over clusters (ratios, changes of ratios, spread over
groups' ratios), so resampling is weights [resamples, clusters] @ sums [clusters, columns].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

CHUNK = 4_000_000  # drawn cluster numbers held at a time
KEPT = 256_000_000  # bytes of draws that are kept for the next statistic over as many clusters

Bytes = NDArray[np.int8] | NDArray[np.uint8]


@dataclass(frozen=True)
class Interval:
    """A value and its 95% percentile interval; None where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bootstrap:
    """`resamples` draws of as many clusters as there are, with replacement, from one seed.

    Statistics over the same number of clusters see the same draws.
    """

    resamples: int = 1000
    seed: int = 0

    def interval(self, sums: Floats, statistic: Statistic) -> Interval:
        """The statistic of the column totals and its 2.5% and 97.5% bootstrap percentiles.

        sums: [clusters, columns]; statistic: [..., columns] -> [...], nan where it is undefined.
        Fewer than two clusters have no interval.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            value = _finite(statistic(sums.sum(axis=0)))
            if value is None or len(sums) < 2 or self.resamples < 1:
                return Interval(value)
            drawn = statistic(self._totals(sums))
        drawn = drawn[np.isfinite(drawn)]
        if not len(drawn):
            return Interval(value)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Interval(value, float(low), float(high))

    def _totals(self, sums: Floats) -> Floats:
        drawn = _drawn(_weights, len(sums), self.resamples, self.seed)
        return np.concatenate([weights @ sums for weights in drawn])


def _drawn(
    draw: Callable[[np.random.Generator, int, int], Bytes], clusters: int, times: int, seed: int
) -> Iterator[Floats]:
    """Rows of draws, [some, clusters] at a time, the same for every statistic of a seed."""
    if clusters * times <= CHUNK:
        yield _whole(draw, clusters, times, seed)
        return
    small = clusters * times <= KEPT
    for some in _kept(draw, clusters, times, seed) if small else _made(draw, clusters, times, seed):
        yield some.astype(np.float64)


def _made(
    draw: Callable[[np.random.Generator, int, int], Bytes], clusters: int, times: int, seed: int
) -> Iterator[Bytes]:
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // clusters)
    for start in range(0, times, rows):
        yield draw(rng, min(rows, times - start), clusters)


@lru_cache(maxsize=8)
def _whole(draw: Any, clusters: int, times: int, seed: int) -> Floats:
    return draw(np.random.default_rng(seed), times, clusters).astype(np.float64)


@lru_cache(maxsize=2)
def _kept(draw: Any, clusters: int, times: int, seed: int) -> list[Bytes]:
    return list(_made(draw, clusters, times, seed))


def _weights(rng: np.random.Generator, resamples: int, clusters: int) -> Bytes:
    """How often each cluster is drawn: [resamples, clusters], every row sums to `clusters`.

    One that is drawn more than 255 times does not fit, and does not happen: of 256 clusters or
    more, P < 1 / 256!; of fewer, no cluster is drawn more often than there are clusters.
    """
    drawn = rng.integers(0, clusters, size=(resamples, clusters))
    drawn += np.arange(resamples)[:, None] * clusters
    counts = np.bincount(drawn.ravel(), minlength=resamples * clusters)
    return counts.reshape(resamples, clusters).astype(np.uint8)


def _exchanges(rng: np.random.Generator, flips: int, clusters: int) -> Bytes:
    """+1 and -1, [flips, clusters]."""
    return 1 - 2 * rng.integers(0, 2, size=(flips, clusters), dtype=np.int8)


@dataclass(frozen=True)
class Permutation:
    """A paired test: were the answers of two methods exchanged picture by picture, at random?

    Two-sided; `flips` random exchanges from one seed, or every one of them where those are fewer.
    """

    flips: int = 2000
    seed: int = 0

    def p(self, first: Floats, second: Floats, statistic: Statistic) -> float | None:
        """Of statistic(first) - statistic(second): the share of exchanges at least as far from 0.

        first, second: [clusters, columns], the same clusters; statistic as for an interval. The
        exchange that was observed counts as one: p = (1 + hits) / (1 + flips), never 0. None where
        the statistic is undefined or there is no cluster.
        """
        middle, half = (first + second).sum(axis=0) / 2, (first - second) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            observed = _apart(middle, half.sum(axis=0), statistic)
            if not len(first) or not np.isfinite(observed):
                return None
            drawn = np.concatenate(
                [_apart(middle, signs @ half, statistic) for signs in self._signs(len(first))]
            )
        far = np.abs(drawn) >= abs(observed) * (1 - 1e-12)
        hits, total = int(far.sum()), int(np.isfinite(drawn).sum())
        return hits / total if self.exact(len(first)) else (1 + hits) / (1 + total)

    def exact(self, clusters: int) -> bool:
        return clusters < 60 and 2**clusters <= self.flips

    def _signs(self, clusters: int) -> Iterator[Floats]:
        """Rows of +1 and -1, [some, clusters]."""
        if self.exact(clusters):
            numbers = np.arange(2**clusters)[:, None] >> np.arange(clusters)
            yield 1.0 - 2.0 * (numbers & 1).astype(np.float64)
            return
        yield from _drawn(_exchanges, clusters, self.flips, self.seed)


def _apart(middle: Floats, half: Floats, statistic: Statistic) -> Floats:
    return np.asarray(statistic(middle + half) - statistic(middle - half))


def effect(first: Floats, second: Floats) -> float | None:
    """Cohen's d_z: mean over sd (ddof 1) of the clusters' differences of rates a / b.

    first, second: [clusters, 2]. None for fewer than two clusters, or where none differs.
    """
    both = (first[:, 1] > 0) & (second[:, 1] > 0)
    one, other = first[both], second[both]
    differences = one[:, 0] / one[:, 1] - other[:, 0] / other[:, 1]
    if len(differences) < 2 or not (spread_of := differences.std(ddof=1)):
        return None
    return float(differences.mean() / spread_of)


def adjusted(values: Sequence[float | None], correction: str) -> list[float | None]:
    """p values corrected for their number, in their order; None stays None.

    holm (family-wise error, Holm 1979), bh (false discovery rate, Benjamini and Hochberg 1995) or
    none.
    """
    places = [place for place, value in enumerate(values) if value is not None]
    found = np.array([values[place] for place in places], dtype=float)
    if correction != "none" and len(found):
        order = np.argsort(found)
        ranks = np.arange(1, len(found) + 1)
        if correction == "holm":
            stepped = np.maximum.accumulate(found[order] * (len(found) + 1 - ranks))
        else:
            stepped = np.minimum.accumulate((found[order] * len(found) / ranks)[::-1])[::-1]
        found[order] = np.minimum(stepped, 1.0)
    by_place = dict(zip(places, found.tolist(), strict=True))
    return [by_place.get(place) for place in range(len(values))]


def ratio(scale: float = 1.0) -> Statistic:
    """scale * a / b of the columns (a, b)."""
    return lambda totals: scale * totals[..., 0] / totals[..., 1]


def change_percent(totals: Floats) -> Floats:
    """100 * ((a / b) / (c / d) - 1) of the columns (a, b, c, d): a rate against its baseline's."""
    return 100 * (totals[..., 0] / totals[..., 1] / (totals[..., 2] / totals[..., 3]) - 1)


def group_rates(totals: Floats, scale: float = 1000.0) -> Floats:
    """scale * a_g / b_g of the columns (a_1 ... a_G, b_1 ... b_G): [..., G]."""
    groups = totals.shape[-1] // 2
    return scale * totals[..., :groups] / totals[..., groups:]


def variance(rates: Floats) -> Floats:
    """Sample variance (ddof 1) over groups: [..., G] -> [...]. One group has none."""
    if rates.shape[-1] < 2:
        return np.full(rates.shape[:-1], np.nan)
    return rates.var(axis=-1, ddof=1)


def spread(rates: Floats) -> Floats:
    """Largest minus smallest over groups: [..., G] -> [...]. One group has none."""
    if rates.shape[-1] < 2:
        return np.full(rates.shape[:-1], np.nan)
    return rates.max(axis=-1) - rates.min(axis=-1)


def difference(statistic: Statistic) -> Statistic:
    """statistic(a) - statistic(b) of the columns (a ..., b ...), as many of a as of b."""

    def apart(totals: Floats) -> Floats:
        columns = totals.shape[-1] // 2
        return statistic(totals[..., :columns]) - statistic(totals[..., columns:])

    return apart


def _finite(value: Floats) -> float | None:
    return float(value) if np.isfinite(value) else None
