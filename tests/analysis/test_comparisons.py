"""Methods against each other: which pairs, which pictures, and what stands in the table."""

from __future__ import annotations

import polars as pl
import pytest

import analysis
from analysis import Analysis
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import LocalStore
from tests.analysis import build


def compared(store: LocalStore, name: str, **settings: object) -> pl.DataFrame:
    analysis.run(store, [name], Analysis(bootstrap=50, **settings), lambda line: None)  # type: ignore[arg-type]
    return pl.read_parquet(store.folder / f"scores/comparisons/{name}.parquet")


@pytest.fixture
def three(output: build.Output) -> build.Output:
    output.manifest(build.people(12, seeds=2))
    output.cell("unsteered", "none", lambda row, r: "a man here" if r.random() < 0.8 else "one")
    output.cell("steered", "gender", lambda row, r: "a man here" if r.random() < 0.2 else "one")
    output.cell("random", "gender", lambda row, r: "a man here" if r.random() < 0.8 else "one")
    return output


def test_every_pair_of_an_attribute_is_there_once_unsteered_ones_first(
    store: LocalStore, three: build.Output
) -> None:
    frame = compared(store, "mentions")
    pairs = frame.select("attribute", "method", "against").rows()
    assert sorted(pairs[:2]) == [
        ("gender", "random", "unsteered"),
        ("gender", "steered", "unsteered"),
    ]
    assert len(pairs) == 3
    assert {*pairs[2][1:]} == {"random", "steered"}
    assert frame["clusters"].to_list() == [12] * 3


def test_a_clear_change_is_found_and_one_that_is_none_is_not(
    store: LocalStore, three: build.Output
) -> None:
    frame = compared(store, "mentions")
    clear, none = (
        frame.filter((pl.col("method") == name) & (pl.col("against") == "unsteered")).to_dicts()[0]
        for name in ("steered", "random")
    )
    scores = pl.read_parquet(store.folder / "scores/mentions.parquet")
    rates = scores.filter((pl.col("metric") == "per_1k") & (pl.col("attribute") == "gender"))
    by_method = dict(rates.select("method", "value").iter_rows())
    assert clear["difference"] == pytest.approx(by_method["steered"] - by_method["unsteered"])
    assert clear["high"] < 0
    assert clear["effect"] < -0.8
    assert clear["p"] <= clear["p_adjusted"] < 0.01
    assert none["p"] > 0.2
    uncorrected = compared(store, "mentions", correction="none")
    assert uncorrected["p"].to_list() == uncorrected["p_adjusted"].to_list()


def test_spread_between_groups_is_compared_too_and_has_no_effect_size(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest(build.people(16))
    output.cell("unsteered", "none", build.story({"race": 0.5}))
    output.cell("steered", "race", build.story({"race": 0.1}))
    frame = compared(store, "sentiment")
    metrics = ["negative_per_1k", "positive_per_1k", "variance_exact", "range_exact"]
    assert frame["metric"].to_list() == metrics
    assert frame.filter(pl.col("metric") == "range_exact")["effect"].to_list() == [None]


def test_an_unknown_correction_is_refused(store: LocalStore, three: build.Output) -> None:
    with pytest.raises(LmmsteerError, match=r"analysis\.correction=bonferroni is not known"):
        compared(store, "mentions", correction="bonferroni")
