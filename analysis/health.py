"""Whether the answers of a steered model are still healthy text: length, diversity, repetition.

words: mean length in words; tokens: mean of new_tokens.
distinct_n (n = 1, 2, 3): distinct n-grams / n-grams of all the answers about one picture, averaged
over pictures, so that memory holds one piece of a cell and not every text; n-grams are told apart
by a 64-bit hash. Longer or more answers about a picture lower it: compare cells of one manifest.
repeated: 1 - distinct / all 4-grams of an answer, averaged over answers of four words or more.
looped: answers whose last words are one run of 1 to 16 words three times over (our definition).
empty: answers without a word. truncated: answers ended by the length limit. repeated, looped, empty
and truncated are in per cent; NAME_change is the difference from unsteered over the same clusters.
Source: distinct-n Li et al. 2016 (arXiv 1510.03055), who divide by the number of tokens for every
n, where here it is that of the n-grams, as became usual; repeated is seq-rep-4 of Welleck et
al. 2020 (arXiv 1908.04319), section 6.1, over words in place of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from analysis.comparisons import Comparable
from analysis.frame import Answers, CellFiles
from analysis.means import Means
from analysis.scores import Score
from analysis.settings import Analysis
from analysis.stats import Bootstrap
from analysis.sums import exact
from analysis.words import words_of

DISTINCT = (1, 2, 3)
REPEATED = 4
LONGEST_LOOP = 16
TIMES = 3
NAMES = (
    "words",
    "tokens",
    *(f"distinct_{n}" for n in DISTINCT),
    "repeated",
    "looped",
    "empty",
    "truncated",
)
MIXED = 6364136223846793005  # Knuth's multiplier of 64-bit congruential generators


class Health:
    """Length, diversity and repetition in every cell."""

    name = "health"

    def __init__(
        self, cells: Iterable[CellFiles], settings: Analysis, bootstrap: Bootstrap
    ) -> None:
        self.settings = settings
        self.means = Means(NAMES, bootstrap)
        self.absent: dict[str, set[str]] = {}

    def add(self, answers: Answers) -> None:
        absent = {"new_tokens", "finish_reason"} - set(answers.frame.columns)
        if absent:
            self.absent.setdefault(str(answers.cell), set()).update(absent)
        frame = answers.frame.with_columns(
            *(pl.lit(None).cast(kind).alias(c) for c, kind in _KINDS if c in absent),
            cluster=answers.clusters(self.settings.cluster),
            said=words_of(pl.col("text")),
        ).with_row_index("row")
        grams = _grams(frame)
        rows = frame.join(_repeated(grams), on="row", how="left").group_by("cluster").agg(_ROWS)
        sums = rows.join(_distinct(frame, grams), on="cluster", how="left").fill_null(0)
        self.means.add(answers, sums)

    def scores(self) -> list[Score]:
        return list(self.means.scores())

    def comparables(self) -> list[Comparable]:
        return self.means.comparables()

    def about(self) -> dict[str, Any]:
        absent = {cell: sorted(columns) for cell, columns in sorted(self.absent.items())}
        return {
            "distinct": "within a picture's answers, averaged over pictures",
            "repeated": f"{REPEATED}-grams within an answer, per cent",
            "looped": f"1 to {LONGEST_LOOP} words {TIMES} times over at the end, per cent",
            "columns that are not there": absent,
        }


_KINDS = (("new_tokens", pl.Int64), ("finish_reason", pl.String))


def looped() -> pl.Expr:
    """Whether the word list `said` ends in one run of words three times over."""
    said = pl.col("said")
    ends = [
        (said.list.len() >= TIMES * p)
        & (said.list.tail(TIMES * p).list.head((TIMES - 1) * p) == said.list.tail((TIMES - 1) * p))
        for p in range(1, LONGEST_LOOP + 1)
    ]
    return pl.any_horizontal(ends)


_ROWS = (
    pl.col("said").list.len().sum().alias("words"),
    pl.len().alias("words_of"),
    pl.col("new_tokens").sum().alias("tokens"),
    pl.col("new_tokens").count().alias("tokens_of"),
    (100 * exact(pl.col("repeated"))).alias("repeated"),
    pl.col("repeated").count().alias("repeated_of"),
    (100 * looped().sum()).alias("looped"),
    pl.len().alias("looped_of"),
    (100 * (pl.col("said").list.len() == 0).sum()).alias("empty"),
    pl.len().alias("empty_of"),
    (100 * (pl.col("finish_reason") == "length").sum()).alias("truncated"),
    pl.col("finish_reason").count().alias("truncated_of"),
)


def _grams(frame: pl.DataFrame) -> pl.DataFrame:
    """row, image_id and the hash of the n-gram that starts at each word (null near the end)."""
    words = frame.select("row", "image_id", word=pl.col("said")).explode("word").drop_nulls("word")
    words = words.with_columns(gram_1=pl.col("word").hash(seed=0))
    for n in range(2, REPEATED + 1):
        inside = pl.col("row").shift(1 - n) == pl.col("row")
        mixed = pl.col(f"gram_{n - 1}") * pl.lit(MIXED, pl.UInt64) + pl.col("gram_1").shift(1 - n)
        words = words.with_columns(pl.when(inside).then(mixed).alias(f"gram_{n}"))
    return words


def _repeated(grams: pl.DataFrame) -> pl.DataFrame:
    gram = pl.col(f"gram_{REPEATED}").drop_nulls()
    rows = grams.drop_nulls(f"gram_{REPEATED}").group_by("row")
    return rows.agg(repeated=1 - gram.n_unique() / gram.len())


def _distinct(frame: pl.DataFrame, grams: pl.DataFrame) -> pl.DataFrame:
    """By cluster: the sum of its pictures' distinct-n, and the pictures that have n-grams."""
    shares = []
    for n in DISTINCT:
        gram = pl.col(f"gram_{n}").drop_nulls()
        share = pl.when(gram.len() > 0).then(gram.n_unique() / gram.len())
        shares.append(share.alias(f"distinct_{n}"))
    pictures = grams.group_by("image_id").agg(shares)
    where = frame.select("image_id", "cluster").unique("image_id", keep="first")
    joined = pictures.join(where, on="image_id").group_by("cluster")
    sums = [exact(pl.col(f"distinct_{n}")).alias(f"distinct_{n}") for n in DISTINCT]
    return joined.agg(
        *sums, *(pl.col(f"distinct_{n}").count().alias(f"distinct_{n}_of") for n in DISTINCT)
    )
