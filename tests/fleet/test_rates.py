from pathlib import Path
from typing import Any

import pytest

from lmmsteer.fleet.rates import Rates, Wanted
from lmmsteer.store import LocalStore
from tests.fleet.outputs import at, cell, done, log

CONFIG = {
    "sampling": {"max_new_tokens": 64},
    "engine": {"name": "shared"},
    "device": {"threads": 1},
}


def wanted(method: str = "x", **other: Any) -> Wanted:
    known = {"model": "m", "digest": "e", "method": method, "card": "cpu", "config": CONFIG}
    return Wanted(**{**known, **other})


def recorded(
    out: Path, method: str = "x", took: float = 5.0, device: str = "cpu", **config: Any
) -> None:
    """A cell whose log has one shard of ten rows."""
    cell(out, method, **{**CONFIG, **config})
    log(out, done(9, took, cell=f"m {method} a d", device=device), name=f"generate-{method}")


def pace(out: Path, asked: Wanted) -> tuple[float, bool, tuple[str, ...]]:
    found = Rates([LocalStore(out)]).match(asked)
    assert found is not None
    return found.pace.rows_per_second, found.same_method, found.unlike


def test_the_same_method_comes_first_then_any_of_the_model(tmp_path: Path) -> None:
    recorded(tmp_path, "x", 5.0)
    recorded(tmp_path, "y", 10.0)
    assert pace(tmp_path, wanted("x")) == (2.0, True, ())
    assert pace(tmp_path, wanted("y+alpha-0.5")) == (1.0, True, ())
    assert pace(tmp_path, wanted("z")) == (pytest.approx(20 / 15), False, ())


def test_other_settings_are_the_last_resort_and_are_said(tmp_path: Path) -> None:
    recorded(tmp_path, "x", 1.0, sampling={"max_new_tokens": 8})
    assert pace(tmp_path, wanted("x")) == (10.0, True, ("sampling.max_new_tokens 8, not 64",))
    recorded(tmp_path, "y", 10.0)
    assert pace(tmp_path, wanted("x")) == (1.0, False, ())


def test_another_card_or_another_model_says_nothing(tmp_path: Path) -> None:
    recorded(tmp_path, "x", device="NVIDIA H100")
    rates = Rates([LocalStore(tmp_path)])
    assert rates.match(wanted("x")) is None
    assert rates.match(wanted("x", card="NVIDIA H100")) is not None
    assert rates.match(wanted("x", card="NVIDIA H100", digest="another")) is None
    renamed = wanted("x", card="NVIDIA H100", model="another name")
    assert rates.match(renamed) is not None


def test_without_a_record_the_models_name_decides(tmp_path: Path) -> None:
    log(tmp_path, at(1, "worker", worker=1, device="cpu"), done(9, 5.0))
    rates = Rates([LocalStore(tmp_path)])
    assert rates.match(wanted("x")) is not None
    assert rates.match(wanted("x", model="n")) is None


def test_of_a_cluster_elsewhere_the_card_with_most_rows_is_taken(tmp_path: Path) -> None:
    recorded(tmp_path, "x", device="old card")
    log(tmp_path, *(done(n, 1.0, device="new card") for n in range(3)), name="generate-2")
    found = Rates([LocalStore(tmp_path)]).match(wanted("x", card=None))
    assert found is not None
    assert (found.card, len(found.pace.done)) == ("new card", 3)


def test_several_folders_are_taken_together(tmp_path: Path) -> None:
    recorded(tmp_path / "one", "x", 5.0)
    recorded(tmp_path / "two", "x", 15.0)
    found = Rates([LocalStore(tmp_path / name) for name in ("one", "two")]).match(wanted("x"))
    assert found is not None
    assert (found.pace.rows_per_second, len(found.pace.done)) == (1.0, 2)


def test_equal_matches_share_one_pace_so_that_they_err_together(tmp_path: Path) -> None:
    recorded(tmp_path, "x")
    rates = Rates([LocalStore(tmp_path)])
    first, second = rates.match(wanted("y")), rates.match(wanted("z"))
    assert first is not None
    assert second is not None
    assert first.pace is second.pace
