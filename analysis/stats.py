"""Bootstrap intervals of statistics of sums, clustered by picture: the one place they are made.

Answers about one picture are not independent, so pictures are resampled, never rows. Every
statistic here is a function of column totals over clusters (ratios, changes of ratios, spread over
groups' ratios), so resampling is weights [resamples, clusters] @ sums [clusters, columns].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

CHUNK = 4_000_000  # drawn cluster numbers held at a time


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
        clusters = len(sums)
        if clusters * self.resamples <= CHUNK:
            return _all_weights(clusters, self.resamples, self.seed) @ sums
        rng = np.random.default_rng(self.seed)
        rows = max(1, CHUNK // clusters)
        sizes = [min(rows, self.resamples - start) for start in range(0, self.resamples, rows)]
        return np.concatenate([_weights(rng, size, clusters) @ sums for size in sizes])


@lru_cache(maxsize=4)
def _all_weights(clusters: int, resamples: int, seed: int) -> Floats:
    return _weights(np.random.default_rng(seed), resamples, clusters)


def _weights(rng: np.random.Generator, resamples: int, clusters: int) -> Floats:
    """How often each cluster is drawn: [resamples, clusters], every row sums to `clusters`."""
    drawn = rng.integers(0, clusters, size=(resamples, clusters))
    drawn += np.arange(resamples)[:, None] * clusters
    counts = np.bincount(drawn.ravel(), minlength=resamples * clusters)
    return counts.reshape(resamples, clusters).astype(np.float64)


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


def _finite(value: Floats) -> float | None:
    return float(value) if np.isfinite(value) else None
