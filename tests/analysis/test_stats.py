from __future__ import annotations

import itertools
import math
import random
import statistics

import numpy as np
import pytest

from analysis import stats
from analysis.stats import (
    Bootstrap,
    Permutation,
    adjusted,
    change_percent,
    difference,
    effect,
    group_rates,
    ratio,
    spread,
    variance,
)


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


def exchanged(first: np.ndarray, second: np.ndarray, mask: tuple[bool, ...]) -> float:
    """The difference of two rates, the clusters of the mask exchanged. By loops."""
    pairs = [(b, a) if m else (a, b) for a, b, m in zip(first, second, mask, strict=True)]
    one, other = ([pair[place] for pair in pairs] for place in (0, 1))
    rate = [sum(x[0] for x in side) / sum(x[1] for x in side) for side in (one, other)]
    return rate[0] - rate[1]


def test_the_paired_test_of_few_clusters_is_that_of_every_exchange() -> None:
    first = columns([3, 0, 2, 5, 1, 4, 2, 2], [4, 4, 3, 5, 2, 4, 4, 3])
    second = columns([1, 1, 0, 4, 1, 2, 2, 0], [4, 4, 4, 5, 3, 4, 4, 4])
    masks = list(itertools.product((False, True), repeat=8))
    observed = exchanged(first, second, masks[0])
    far = [abs(exchanged(first, second, m)) >= abs(observed) - 1e-12 for m in masks]
    found = Permutation(1000).p(first, second, ratio())
    assert found == pytest.approx(sum(far) / len(masks))
    assert Permutation(1000).p(second, first, ratio()) == found


def test_the_paired_test_of_many_clusters_agrees_with_the_t_test_of_differences() -> None:
    rng = np.random.default_rng(4)
    base = rng.integers(0, 6, 400).astype(float)
    first = np.stack([base + rng.integers(0, 3, 400), np.full(400, 8.0)], axis=1)
    second = np.stack([base + rng.integers(0, 3, 400) - 0.08, np.full(400, 8.0)], axis=1)
    apart = first[:, 0] - second[:, 0]
    z = apart.mean() / (apart.std(ddof=1) / math.sqrt(400))
    expected = math.erfc(abs(z) / math.sqrt(2))
    assert Permutation(4000).p(first, second, ratio()) == pytest.approx(expected, abs=0.03)


def test_a_method_against_itself_has_p_one_and_a_clear_difference_the_least_there_is() -> None:
    sums = columns([1.0] * 50 + [0.0] * 50, [2.0] * 100)
    assert Permutation(200).p(sums, sums, ratio()) == 1
    more = sums + np.array([1.0, 0.0])
    assert Permutation(200).p(more, sums, ratio()) == pytest.approx(1 / 201)
    assert Permutation(200).p(sums[:0], sums[:0], ratio()) is None
    assert Permutation(200, seed=1).p(more, sums, spread) is not None


def test_under_no_difference_p_is_below_its_level_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        hits = rng.binomial(5, 0.4, (30, 2)).astype(float)
        first, second = (np.stack([hits[:, side], np.full(30, 5.0)], axis=1) for side in (0, 1))
        found.append(Permutation(300).p(first, second, ratio()))
    assert sum(p <= 0.1 for p in found) == pytest.approx(30, abs=16)


def test_chunks_of_exchanges_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    first, second = (rng.integers(1, 9, (40, 2)).astype(float) for _ in range(2))
    whole = Permutation(300).p(first, second, ratio())
    monkeypatch.setattr(stats, "CHUNK", 90)
    assert Permutation(300).p(first, second, ratio()) == pytest.approx(whole, abs=0.08)


def test_holm_and_benjamini_hochberg_as_in_a_textbook() -> None:
    values = [0.01, None, 0.04, 0.03, 0.005]
    assert adjusted(values, "holm") == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    assert adjusted(values, "bh") == pytest.approx([0.02, None, 0.04, 0.04, 0.02])
    assert adjusted(values, "none") == values
    assert adjusted([0.9, 0.8], "holm") == [1, 1]
    assert adjusted([], "holm") == []


def test_the_effect_is_cohens_d_of_the_paired_rates() -> None:
    first, second = columns([2, 3, 1, 4], [4, 4, 4, 4]), columns([1, 1, 1, 2], [4, 4, 4, 0])
    differences = [0.25, 0.5, 0.0]  # The last has no answer of the other.
    expected = statistics.mean(differences) / statistics.stdev(differences)
    assert effect(first, second) == pytest.approx(expected)
    assert effect(first[:1], second[:1]) is None
    assert effect(first, first) is None


def test_a_difference_has_the_interval_of_both_drawn_together() -> None:
    both = columns([1, 2, 3, 4], [4, 4, 4, 4], [1, 2, 3, 4], [4, 4, 4, 4])
    found = Bootstrap(100).interval(both, difference(ratio()))
    assert (found.value, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize(("chunk", "kept"), [(10**9, 10**9), (700, 10**9), (700, 1)])
def test_draws_are_the_same_however_they_are_held(
    chunk: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.default_rng(3)
    one, other = (chance.integers(1, 9, size=(60, 2)).astype(float) for _ in range(2))
    whole = found(one, other, 1)
    monkeypatch.setattr(stats, "CHUNK", chunk)
    monkeypatch.setattr(stats, "KEPT", kept)
    assert found(one, other, 1) == whole
    assert found(one, other, 2) != whole


def found(one: np.ndarray, other: np.ndarray, seed: int) -> tuple[object, object]:
    """An interval and a p value, of draws that nothing has kept from before."""
    stats._whole.cache_clear()
    stats._kept.cache_clear()
    interval = stats.Bootstrap(50, seed).interval(one, stats.ratio())
    return interval, stats.Permutation(70, seed).p(one, other, stats.ratio())
