"""VADER's compound scores of many texts, by several processes where that is worth their start."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain

import polars as pl

from analysis.vader import Vader

FEW = 20_000  # Texts that one process scores in less time than others take to start.
PIECE = 500

_scorers: list[Vader] = []  # Of this process; one at most.


class Pool:
    """Processes that score texts; they start with the first many, and end with the program.

    cores: how many; None is one for each core that this process may use. sentences: the mean of a
    text's sentences instead of the score of the whole.
    """

    def __init__(self, cores: int | None = None, sentences: bool = False) -> None:
        self._score = _by_sentence if sentences else _whole
        self.cores = max(1, cores if cores is not None else _usable())
        self._pool: ProcessPoolExecutor | None = None
        self._seen = 0

    def compounds(self, texts: pl.Series) -> pl.Series:
        """VADER's compound score of each text, in [-1, 1]. Equal texts are scored once."""
        unique = texts.unique(maintain_order=True)
        pieces = [unique.slice(at, PIECE).to_list() for at in range(0, len(unique), PIECE)]
        self._seen += len(unique)
        if self.cores == 1 or self._seen < FEW:
            found = map(self._score, pieces)
        else:
            found = self._started().map(self._score, pieces)
        scores = pl.Series(list(chain.from_iterable(found)), dtype=pl.Float64)
        lookup = pl.DataFrame({"text": unique, "compound": scores})
        joined = texts.to_frame("text").join(lookup, on="text", how="left", maintain_order="left")
        return joined["compound"]

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:  # Polars has threads, so a plain fork might hang.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.cores, context)
        return self._pool


def _whole(texts: Sequence[str]) -> list[float]:
    return [_scorer().scores(text).compound for text in texts]


def _by_sentence(texts: Sequence[str]) -> list[float]:
    return [_scorer().mean_compound(text) for text in texts]


def _scorer() -> Vader:
    if not _scorers:
        _scorers.append(Vader())
    return _scorers[0]


def _usable() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
