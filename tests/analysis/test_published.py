"""The steering paper's Table 1 (arXiv 2411.12590), put through our own rates and changes."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from analysis.measure import Counted, Rates
from analysis.stats import Bootstrap, change_percent
from lmmsteer.schema import Cell

# Mentions per 1k generations: SocialCounterfactuals age, gender, race, body type; FACET age,
# gender, race; DA-COCO gender, race. Unsteered, Steered Dataset, Steered Gradient.
BIGRAM_LLAVA = (
    (595, 358, 790, 111, 232, 439, 635, 617, 374),
    (197, 483, 549, 31, 70, 282, 543, 537, 274),
    (583, 343, 784, 109, 235, 421, 650, 598, 374),
)
BIGRAM_LLAMA = (
    (507, 233, 1480, 101, 138, 329, 2537, 607, 1824),
    (526, 130, 629, 24, 76, 120, 635, 329, 456),
    (474, 190, 1240, 65, 118, 337, 2380, 670, 1805),
)
JUDGE_LLAVA = (
    (771, 1103, 235, 329, 242, 1095, 21, 2689, 82),
    (365, 842, 46, 158, 102, 949, 1, 2269, 17),
    (783, 945, 257, 301, 257, 1117, 23, 2672, 68),
)
JUDGE_LLAMA = (
    (869, 1641, 437, 259, 246, 2169, 136, 3396, 202),
    (893, 1564, 194, 121, 125, 2800, 24, 3589, 69),
    (792, 1312, 329, 198, 162, 1872, 77, 3801, 163),
)
ALL = (BIGRAM_LLAVA, BIGRAM_LLAMA, JUDGE_LLAVA, JUDGE_LLAMA)
METHODS = ("unsteered", "steered_dataset", "steered_gradient")


def changes() -> pl.DataFrame:
    """change_percent of every cell, as `analyze` makes it of counts over 1,000 answers."""
    rates = Rates("per_1k", Bootstrap(0))
    for number, table in enumerate(ALL):
        for method, line in zip(METHODS, table, strict=True):
            for place, count in enumerate(line):
                cell = Cell(f"m{number}", method, f"a{place}", "d")
                sums = pl.DataFrame({"cluster": ["all"], "hits": [count], "rows": [1000]})
                rates.add(Counted(cell, cell.attribute, cell.attribute, sums, 1.0))
    found = [
        {"method": score.cell.method, "value": score.interval.value}
        for score in rates.scores()
        if score.metric == "change_percent"
    ]
    return pl.DataFrame(found)


def pooled(method: int, tables: tuple = ALL) -> float:
    """The change of all mentions together."""
    steered, plain = (sum(sum(table[at]) for table in tables) for at in (method, 0))
    answers = 1000.0 * 9 * len(tables)
    return float(change_percent(np.array([steered, answers, plain, answers])))


@pytest.mark.parametrize(("method", "mean", "together"), [(1, -42, -28.1), (2, -7.9, -4.8)])
def test_the_changes_of_table_1_are_those_recomputed_from_it(
    method: int, mean: float, together: float
) -> None:
    own = changes().filter(pl.col("method") == METHODS[method])["value"]
    assert len(own) == 36
    digits = 0 if mean == int(mean) else 1
    assert round(float(own.mean()), digits) == mean  # type: ignore[arg-type]
    assert round(pooled(method), 1) == together


def test_the_bigrams_of_llava_alone_fall_by_as_much() -> None:
    assert round(pooled(1, (BIGRAM_LLAVA,)), 1) == -28.5


def test_not_every_cell_of_table_1_falls() -> None:
    own = changes().filter(pl.col("method") == "steered_dataset")["value"]
    assert own.max() == pytest.approx(100 * (483 / 358 - 1))
    assert (own > 0).sum() == 5
