"""Sums by cluster that grow batch by batch and stay as large as there are clusters.

Whole numbers add up to the same in any order; `exact` makes fractions such numbers, so that a cell
seen in many batches has the table of the same cell seen in one.
"""

from __future__ import annotations

import polars as pl

UNIT = float(1 << 40)
LOOSE = 100_000  # rows that may wait to be merged


class Sums:
    """Sums of frames with the columns `keys`; every other column is added up."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys
        self._frames: list[pl.DataFrame] = []
        self._loose = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Add sums of other rows. Merging waits, so that a batch costs no more among many."""
        self._frames.append(frame)
        self._loose += len(frame)
        if self._loose > max(LOOSE, len(self._frames[0])):
            self.total()

    def total(self) -> pl.DataFrame:
        """One row for each of the keys, in their order."""
        if self._loose:
            whole = pl.concat(self._frames, how="vertical_relaxed")
            merged = whole.group_by(self.keys).agg(pl.exclude(self.keys).sum())
            self._frames, self._loose = [merged.sort(self.keys)], 0
        return self._frames[0]


def exact(values: pl.Expr) -> pl.Expr:
    """The sum of values in [-1, 1], each rounded to a multiple of 2^-40: the same in any order.

    Off by at most 4.6e-13 for each value; exact as float64 while the sum is below 8,192.
    """
    return (values * UNIT).round().cast(pl.Int64).sum() / UNIT
