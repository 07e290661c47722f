import random
from math import inf, sqrt

import pytest
from scipy.stats import t as student

from lmmsteer.fleet.logs import Done
from lmmsteer.fleet.outlook import Forecast, Pace, summed, t975, total


def pace(*shards: tuple[int, float]) -> Pace:
    return Pace([Done("c", rows, seconds, 1, "m", "cpu") for rows, seconds in shards])


def test_the_estimate_and_its_interval_are_those_of_a_hand_calculation() -> None:
    # s = 24/8 = 3 s a row. Residuals 11-12, 6-6, 7-6 = -1, 0, 1: v = 2/2 = 1. Mean shard 8/3 rows.
    # 16 rows: C = 48 s, m = 6 shards, Var = 1 * 6 * (1 + 6/3) = 18, t(2) = 4.303.
    found = pace((4, 11.0), (2, 6.0), (2, 7.0)).forecast(16)
    assert found.seconds == pytest.approx(48)
    assert found.variance == pytest.approx(18)
    assert (found.low, found.high) == pytest.approx((48 - 4.303 * sqrt(18), 48 + 4.303 * sqrt(18)))


def test_the_interval_never_begins_below_zero() -> None:
    assert pace((1, 1.0), (1, 9.0)).forecast(5).low == 0.0


def test_a_single_shard_gives_an_estimate_and_no_interval() -> None:
    found = pace((10, 20.0)).forecast(30)
    assert (found.seconds, found.low, found.high) == (60.0, None, None)
    assert summed([found, Forecast(1.0)]).high is None


def test_nothing_left_takes_no_time() -> None:
    found = pace((10, 20.0), (10, 22.0)).forecast(0)
    assert (found.seconds, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("degrees", [*range(1, 60), 100, 1000, inf])
def test_the_quantile_is_students(degrees: float) -> None:
    assert t975(degrees) == pytest.approx(student.ppf(0.975, degrees), abs=6e-4)


def test_rows_at_one_pace_err_together_and_at_two_paces_apart() -> None:
    one, other = pace((10, 20.0), (10, 30.0)), pace((10, 20.0), (10, 30.0))
    together, apart = total([(one, 50), (one, 50)]), total([(one, 50), (other, 50)])
    assert together.seconds == apart.seconds == 250.0
    # v = 50; together m = 10: 50*10*(1+10/2) = 3000; apart 2 * 50*5*(1+5/2) = 1750.
    assert together.variance == pytest.approx(3000)
    assert apart.variance == pytest.approx(1750)
    assert (together.degrees, apart.degrees) == (1, pytest.approx(2))


def test_shared_among_workers_the_interval_shrinks_with_the_estimate() -> None:
    found = pace((10, 20.0), (10, 30.0)).forecast(100)
    half = found.times(1 / 2)
    assert half.low is not None
    assert found.high is not None
    assert (half.seconds, half.high) == pytest.approx((found.seconds / 2, found.high / 2))


def test_the_interval_holds_what_comes_in_95_of_100_cases() -> None:
    """2,000 times: 8 recorded shards, then 20 more; all of the same normal distribution."""
    chance, held = random.Random(5), 0
    for _ in range(2000):
        seconds = [chance.gauss(60.0, 9.0) for _ in range(28)]
        found = pace(*((240, one) for one in seconds[:8])).forecast(20 * 240)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= sum(seconds[8:]) <= found.high
    assert 0.94 <= held / 2000 <= 0.96
