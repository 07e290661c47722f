from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

import analysis
from analysis import Analysis, scores
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Request
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet

TEXTS = {
    "p0": "The young man, a man.",  # gender: man + man <end>
    "p1": "A woman and her dog",  # gender: woman, her
    "p2": None,
    "p3": "A person",
    "p4": "",
}


def texts(said: dict[str, str | None]) -> build.Answer:
    return lambda row, _: said[row.image_id]


def rows(said: dict[str, str | None]) -> list[Request]:
    return [build.row(number, image) for number, image in enumerate(said)]


def value(store: LocalStore, method: str, attribute: str, metric: str = "per_1k") -> dict:
    found = scores.read(store, "mentions")
    assert found is not None
    same = pl.col("method") == method, pl.col("attribute") == attribute, pl.col("metric") == metric
    return found[0].row(by_predicate=pl.all_horizontal(same), named=True)


def measure(store: LocalStore, **keys: object) -> None:
    analysis.run(store, ["mentions"], Analysis(bootstrap=50, **keys), quiet)  # type: ignore[arg-type]


def test_mentions_are_counted_per_1k_answered_rows(store: LocalStore, output: build.Output) -> None:
    output.manifest(rows(TEXTS)).cell("unsteered", "none", texts(TEXTS))
    measure(store, attributes={"gender": ["man", "woman", "her"], "age": ["young"]})
    gender, age = (value(store, "unsteered", name) for name in ("gender", "age"))
    assert (gender["value"], gender["n"], gender["coverage"]) == (1000 * 4 / 4, 4, 1.0)
    assert (age["value"], age["n"]) == (1000 * 1 / 4, 4)


@pytest.mark.parametrize(("mode", "counted"), [("deny", 3), ("allow", 1)])
def test_annotated_bigrams_decide_what_counts(
    store: LocalStore, output: build.Output, tmp_path: Path, mode: str, counted: int
) -> None:
    said: dict[str, str | None] = {"p0": "black man, black coat. Black", "p1": "a black swan"}
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "bigram,attribute,freq,label\nblack man,race,1,related\nblack coat,race,1,unrelated\n"
    )
    output.manifest(rows(said)).cell("unsteered", "none", texts(said))
    measure(store, attributes={"race": ["black"]}, bigrams=str(labels), mode=mode)
    assert value(store, "unsteered", "race")["value"] == 1000 * counted / 2


def test_a_steered_cell_is_measured_on_its_own_attribute_and_against_unsteered(
    store: LocalStore, output: build.Output
) -> None:
    plain: dict[str, str | None] = {"p0": "man man", "p1": "old man", "p2": "woman"}
    steered: dict[str, str | None] = {"p0": "old man", "p1": "old old", "p2": None}
    output.manifest(rows(plain)).cell("unsteered", "none", texts(plain))
    output.cell("steered_dataset", "gender", texts(steered), words=["man", "woman"])
    measure(store)
    found = scores.read(store, "mentions")
    assert found is not None
    assert set(found[0]["attribute"]) == {"gender"}
    assert value(store, "steered_dataset", "gender")["value"] == 500
    # The picture that has no steered answer is left out of both: 1 of 2 against 3 of 2.
    change = value(store, "steered_dataset", "gender", "change_percent")
    assert change["value"] == pytest.approx(100 * ((1 / 2) / (3 / 2) - 1))
    assert change["n"] == 2
    unsteered = found[0].filter(method="unsteered")
    assert unsteered["metric"].to_list() == ["per_1k"]


def test_a_cell_without_attribute_is_compared_on_every_attribute(
    store: LocalStore, output: build.Output
) -> None:
    build.sweep(store.folder, pictures=12, seeds=1)
    measure(store)
    for name in build.ATTRIBUTES:
        assert value(store, "prompt", name, "change_percent")["value"] < 0
        assert value(store, "steered_dataset", name, "change_percent")["high"] < 0


def test_without_an_unsteered_cell_there_is_no_change(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest(rows(TEXTS)).cell("prompt", "none", texts(TEXTS))
    measure(store, attributes={"gender": []})
    found = scores.read(store, "mentions")
    assert found is not None
    assert found[0]["metric"].unique().to_list() == ["per_1k"]


def test_only_cells_without_attribute_are_measured_on_every_shipped_attribute(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest(rows(TEXTS)).cell("unsteered", "none", texts(TEXTS))
    measure(store)
    found = scores.read(store, "mentions")
    assert found is not None
    assert set(found[0]["attribute"]) == {"gender", "age", "body_type", "skin_tone", "race"}


def test_words_recorded_with_the_cells_count_in_the_unsteered_cell_too(
    store: LocalStore, output: build.Output
) -> None:
    said: dict[str, str | None] = {"p0": "a dog and a cat", "p1": "a man"}
    output.manifest(rows(said)).cell("unsteered", "none", texts(said))
    output.cell("blocklist", "gender", texts(said), words=["dog", "cat"])
    measure(store)
    assert value(store, "unsteered", "gender")["value"] == 1000
    measure(store, attributes={"gender": ["dog"]})
    assert value(store, "unsteered", "gender")["value"] == 500


def test_recorded_words_that_disagree_give_way_to_the_shipped_ones(
    store: LocalStore, output: build.Output
) -> None:
    said: dict[str, str | None] = {"p0": "a dog", "p1": "a man"}
    output.manifest(rows(said)).cell("unsteered", "none", texts(said))
    output.cell("blocklist", "gender", texts(said), words=["dog"])
    output.cell("blocklist+penalty-2", "gender", texts(said), words=["cat"])
    measure(store)
    assert value(store, "unsteered", "gender")["value"] == 500


def test_a_whole_sweep_counts_as_plain_string_work_does(
    store: LocalStore, output: build.Output
) -> None:
    made = build.sweep(store.folder, pictures=8)
    measure(store)
    answer = build.story({"gender": 0.65, "age": 0.55, "body_type": 0.5, "skin_tone": 0.45})
    said = [str(build.respond(row, answer).text).lower() for row in made.rows]
    for name in build.ATTRIBUTES:
        hits = sum(len(re.findall(rf"\b({'|'.join(build.WORDS[name])})\b", text)) for text in said)
        found = value(store, "unsteered", name)["value"]
        assert found == pytest.approx(1000 * hits / len(said))


def test_an_attribute_without_words_is_refused_by_name(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest(rows(TEXTS)).cell("unsteered", "none", texts(TEXTS))
    with pytest.raises(LmmsteerError, match="hair"):
        measure(store, attributes={"hair": []})


def test_counterfactual_sets_can_be_what_is_resampled(
    store: LocalStore, output: build.Output
) -> None:
    build.sweep(store.folder, pictures=12, seeds=1)
    measure(store)
    by_picture = value(store, "unsteered", "gender")
    measure(store, cluster="group_id")
    by_set = value(store, "unsteered", "gender")
    assert by_set["value"] == by_picture["value"]
    assert (by_set["low"], by_set["high"]) != (by_picture["low"], by_picture["high"])
