from __future__ import annotations

import math
import random

import numpy as np
import pytest

from analysis import stats
from analysis.stats import Bootstrap, change_percent, group_rates, ratio, spread, variance


def columns(*values: list[float]) -> np.ndarray:
    return np.array(values, dtype=float).T


def test_the_value_is_the_ratio_of_the_totals() -> None:
    found = Bootstrap(200).interval(columns([1, 2, 0], [4, 4, 2]), ratio(1000))
    assert found.value == 300


def test_the_interval_of_a_proportion_is_the_binomial_one() -> None:
    hits = [1.0] * 120 + [0.0] * 280
    found = Bootstrap(4000, seed=3).interval(columns(hits, [1.0] * 400), ratio())
    error = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert found.low == pytest.approx(0.3 - error, abs=0.006)
    assert found.high == pytest.approx(0.3 + error, abs=0.006)


def test_the_interval_agrees_with_drawing_clusters_one_by_one() -> None:
    rng = random.Random(5)
    clusters = [(rng.randrange(5), rng.randrange(1, 6)) for _ in range(40)]
    drawn = []
    for _ in range(4000):
        sample = rng.choices(clusters, k=40)
        drawn.append(sum(a for a, _ in sample) / sum(b for _, b in sample))
    drawn.sort()
    found = Bootstrap(4000).interval(np.array(clusters, dtype=float), ratio())
    assert found.low == pytest.approx(drawn[100], rel=0.03)
    assert found.high == pytest.approx(drawn[3900], rel=0.03)


def test_answers_that_repeat_within_a_picture_do_not_narrow_the_interval() -> None:
    once = columns([1, 0, 1, 1, 0, 1], [1] * 6)
    assert Bootstrap(500).interval(once, ratio()) == Bootstrap(500).interval(15 * once, ratio())


def test_the_same_seed_gives_the_same_interval_and_another_gives_another() -> None:
    sums = np.random.default_rng(0).integers(0, 9, (50, 2)) + 1.0
    first = Bootstrap(300, seed=1).interval(sums, ratio())
    assert Bootstrap(300, seed=1).interval(sums, ratio()) == first
    assert Bootstrap(300, seed=2).interval(sums, ratio()) != first


def test_resampling_in_chunks_has_the_same_weights_per_draw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sums = columns([1, 2, 3, 4, 5], [1, 1, 1, 1, 1])
    monkeypatch.setattr(stats, "CHUNK", 12)
    totals = Bootstrap(101)._totals(sums)
    assert totals.shape == (101, 2)
    assert set(totals[:, 1]) == {5.0}


def test_a_cell_against_itself_has_no_change_and_no_uncertainty() -> None:
    a = columns([3, 0, 2, 5], [3, 3, 3, 3])
    found = Bootstrap(200).interval(np.hstack([a, a]), change_percent)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_a_change_is_relative_to_the_baselines_rate() -> None:
    # 6 of 12 against 8 of 10: 0.5 / 0.8 = 0.625
    assert change_percent(np.array([6.0, 12, 8, 10])) == pytest.approx(-37.5)


def test_pairing_by_picture_is_narrower_than_two_independent_samples() -> None:
    base = np.random.default_rng(1).integers(0, 6, 80).astype(float)
    rows = np.full(80, 5.0)
    paired = np.column_stack([base * 0.5, rows, base, rows])
    shuffled = np.column_stack([np.roll(base, 7) * 0.5, rows, base, rows])
    narrow, wide = (Bootstrap(500).interval(s, change_percent) for s in (paired, shuffled))
    assert narrow.value == wide.value == -50
    assert (narrow.high or 0) - (narrow.low or 0) < 0.01 < (wide.high or 0) - (wide.low or 0)


def test_what_is_undefined_has_no_value() -> None:
    nothing = Bootstrap(50).interval(columns([0, 0], [0, 0]), ratio())
    assert (nothing.value, nothing.low, nothing.high) == (None, None, None)
    from_zero = Bootstrap(50).interval(columns([1, 1], [2, 2], [0, 0], [2, 2]), change_percent)
    assert from_zero.value is None


def test_one_picture_has_a_value_and_no_interval() -> None:
    found = Bootstrap(50).interval(columns([1], [4]), ratio())
    assert (found.value, found.low, found.high) == (0.25, None, None)


def test_spread_and_variance_over_groups_by_hand() -> None:
    totals = np.array([1.0, 2, 6, 10, 10, 20])
    rates = group_rates(totals, 10)
    assert rates.tolist() == [1, 2, 3]
    assert variance(rates) == 1  # ((-1)^2 + 0 + 1^2) / (3 - 1)
    assert spread(rates) == 2
