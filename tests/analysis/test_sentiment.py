from __future__ import annotations

import random
import statistics
from itertools import product

import numpy as np
import polars as pl
import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

import analysis
from analysis import Analysis, scores
from analysis.sentiment import over_groups
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Request
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet

BAD, GOOD, FLAT = "A miserable, angry person.", "A happy, kind person.", "A person at a table."
TABLE_2 = [(57.6, 20), (41.6, 14), (16.4, 11), (197.9, 41), (169.2, 29), (309.9, 49)]


def measure(store: LocalStore, **keys: object) -> pl.DataFrame:
    analysis.run(store, ["sentiment"], Analysis(bootstrap=50, **keys), quiet)  # type: ignore[arg-type]
    found = scores.read(store, "sentiment")
    assert found is not None
    return found[0]


def value(frame: pl.DataFrame, metric: str, group: str | None = None) -> float:
    rows = frame.filter(pl.col("metric") == metric, pl.col("group").eq_missing(pl.lit(group)))
    return rows["value"].item()


def people(negative: dict[str, int], each: int, label: str = "race") -> list[Request]:
    """`each` rows in every group; `negative` of them are about pictures called bad."""
    rows = []
    for group, bad in negative.items():
        for i in range(each):
            image = f"{group}-{'bad' if i < bad else 'flat'}-{i % 3}"
            rows.append(build.row(len(rows), image, **{label: group}))
    return rows


def answer(row: Request, _: random.Random) -> str:
    return BAD if "-bad-" in row.image_id else FLAT


def integers_with(target: float, wide: int) -> list[int]:
    """Six whole numbers from 0 to `wide` whose sample variance rounds to `target`."""
    for middle in product(range(wide + 1), repeat=4):
        values = [0, *middle, wide]
        if sorted(middle) == list(middle) and round(statistics.variance(values), 1) == target:
            return values
    raise AssertionError(f"no six rates have variance {target} and range {wide}")


@pytest.mark.parametrize(("target", "wide"), TABLE_2[:3])
def test_the_published_pairs_of_variance_and_range_can_be_had_from_six_rates(
    target: float, wide: int
) -> None:
    found = over_groups(np.array(integers_with(target, wide), dtype=float))
    assert round(float(found["variance"]), 1) == target
    assert found["range"] == wide


def test_a_published_pair_comes_out_of_answers(store: LocalStore, output: build.Output) -> None:
    rates = dict(zip("abcdef", integers_with(16.4, 11), strict=True))
    rows = people(rates, 1000)
    output.part_rows = 1000
    output.manifest(rows).cell("unsteered", "none", answer)
    frame = measure(store)
    assert round(value(frame, "variance"), 1) == 16.4
    assert value(frame, "range") == 11
    assert value(frame, "variance_exact") == pytest.approx(value(frame, "variance"))
    assert {g: value(frame, "negative_per_1k", g) for g in rates} == rates


def test_rates_are_rounded_before_the_spread_and_kept_unrounded_beside_it(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest(people({"a": 1, "b": 2}, 3)).cell("unsteered", "none", answer)
    frame = measure(store)
    assert value(frame, "range") == 667 - 333
    assert value(frame, "range_exact") == pytest.approx(1000 / 3)
    assert value(frame, "variance") == (667 - 333) ** 2 / 2
    assert value(frame, "variance_exact") == pytest.approx((1000 / 3) ** 2 / 2)


def test_groups_are_those_of_race_where_there_is_one_else_of_skin_tone(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest(people({"light": 1, "dark": 2}, 4, "skin_tone"))
    output.cell("unsteered", "none", answer)
    assert set(measure(store)["group"].drop_nulls()) == {"light", "dark"}
    assert value(measure(store), "negative_per_1k", "dark") == 500


def test_another_label_can_group_the_answers(store: LocalStore, output: build.Output) -> None:
    rows = build.people(8)
    output.manifest(rows).cell("unsteered", "none", build.story({}))
    assert set(measure(store, by="age")["group"].drop_nulls()) == {"young", "old"}
    with pytest.raises(LmmsteerError, match="hair"):
        measure(store, by="hair")


def test_answers_without_labels_have_the_whole_and_no_groups(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest([build.row(i, f"x-{'bad' if i else 'flat'}-{i}") for i in range(4)])
    output.cell("unsteered", "none", answer)
    frame = measure(store)
    assert set(frame["metric"]) == {"negative_per_1k", "positive_per_1k", "mean_compound"}
    assert value(frame, "negative_per_1k") == 750


def test_compounds_are_vaders_own_row_by_row(store: LocalStore, output: build.Output) -> None:
    rows = build.people(6)
    output.manifest(rows).cell("unsteered", "none", build.story({"gender": 0.5}))
    frame = measure(store)
    vader = SentimentIntensityAnalyzer()
    texts = {r.row_id: str(build.respond(r, build.story({"gender": 0.5})).text) for r in rows}
    expected = {key: vader.polarity_scores(text)["compound"] for key, text in texts.items()}
    kept = pl.read_parquet(store.folder / "scores/sentiment.rows.parquet")
    assert dict(kept.select("row_id", "compound").iter_rows()) == expected
    assert value(frame, "mean_compound") == pytest.approx(statistics.mean(expected.values()))
    positive = sum(score >= 0.05 for score in expected.values())
    assert value(frame, "positive_per_1k") == pytest.approx(1000 * positive / len(rows))
