"""Probabilities of the first token by picture, and the scores that follow from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl

from analysis.means import difference
from analysis.scores import Score
from analysis.stats import Bootstrap, Floats, ratio
from lmmsteer.schema import Cell

SPACE = "▁"  # How a space is shown.


class Summed(Protocol):
    """Probabilities summed by picture. sums: [pictures, vocab]; rows: [pictures], prompts in it."""

    sums: Any
    rows: Any


class Opened(Protocol):
    """A cell whose model and method are there. texts: of every token of its vocabulary."""

    @property
    def texts(self) -> Sequence[str]: ...

    def spelled(self, words: Sequence[str]) -> list[int]:
        """The tokens that spell one of the words whole."""
        ...


@dataclass(frozen=True)
class Seen:
    """Probabilities by picture, [pictures, vocab], and rows, [pictures]; `of`: the cluster of each
    picture."""

    sums: Floats
    rows: Floats
    of: Sequence[int]

    @classmethod
    def made(cls, found: Summed, of: Sequence[int]) -> Seen:
        return cls(np.asarray(found.sums), np.asarray(found.rows, dtype=np.float64), of)

    @property
    def n(self) -> int:
        return int(self.rows.sum())

    @property
    def mean(self) -> Floats:
        """[vocab]"""
        return self.sums.sum(0, dtype=np.float64) / self.rows.sum()

    def columns(self, tokens: Sequence[int]) -> Floats:
        """[clusters, 2]: the summed probability of these tokens together, and the rows."""
        summed = self.sums[:, tokens].sum(1, dtype=np.float64)
        found = np.zeros((max(self.of) + 1, 2))
        np.add.at(found, list(self.of), np.stack([summed, self.rows], 1))
        return found

    def by_cluster(self, tokens: Sequence[int]) -> pl.DataFrame:
        """The same, with a column `cluster`."""
        hits, rows = self.columns(tokens).T
        return pl.DataFrame({"cluster": range(len(hits)), "hits": hits, "rows": rows})


@dataclass(frozen=True)
class Shown:
    """A cell that was shown its pictures. labels: a name for every token; share: of the manifest's
    pictures; base: what the model says without its method (None: this is it)."""

    cell: Cell
    seen: Seen
    base: Seen | None
    labels: Sequence[str]
    share: float
    bootstrap: Bootstrap

    @property
    def change(self) -> Floats:
        """[vocab]"""
        mean = self.seen.mean
        return mean - (mean if self.base is None else self.base.mean)

    def of_words(self, attribute: str, tokens: Sequence[int]) -> list[Score]:
        """Of all of these tokens together."""
        return self._scores(attribute, "words_probability", "words_change", tokens, None)

    def of_token(self, attribute: str, token: int) -> list[Score]:
        label = self.labels[token]
        return self._scores(attribute, "probability", "change", [token], label)

    def _scores(
        self, attribute: str, value: str, change: str, tokens: Sequence[int], group: str | None
    ) -> list[Score]:
        columns = self.seen.columns(tokens)
        found = [(value, self.bootstrap.interval(columns, ratio()))]
        if self.base is not None:
            both = np.concatenate([columns, self.base.columns(tokens)], 1)
            found.append((change, self.bootstrap.interval(both, difference)))
        place = (self.seen.n, self.share, group)
        return [Score(self.cell, attribute, name, interval, *place) for name, interval in found]


def labels(texts: Sequence[str]) -> list[str]:
    """A name for every token: its text, spaces as ▁, and its id where others have the same."""
    shown = [_printable(text) for text in texts]
    times = Counter(shown)
    return [
        text if text and times[text] == 1 else f"{text}[{token}]"
        for token, text in enumerate(shown)
    ]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.replace(" ", SPACE))
