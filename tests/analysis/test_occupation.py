from __future__ import annotations

import polars as pl
import pytest

import analysis
from analysis import Analysis, scores
from analysis.occupation import held
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet


@pytest.mark.parametrize(
    ("occupation", "text", "named"),
    [
        ("doctor", "The Doctor smiles.", True),
        ("doctor", "The doctor's coat", True),
        ("doctor", "Two doctors", False),
        ("fire_fighter", "a fire fighter", True),
        ("fire_fighter", "a FIRE-FIGHTER", True),
        ("fire_fighter", "a firefighter", False),
        ("fire_fighter", "a fire. Fighter", False),
        ("real-estate_agent", "the real estate\n agent", True),
        ("computer user", "a computer_user", True),
        ("art", "a cart and a party", False),
        ("chef", "", False),
    ],
)
def test_an_occupation_is_held_as_whole_words(occupation: str, text: str, named: bool) -> None:
    frame = pl.DataFrame({"occupation": [occupation], "text": [text]})
    assert frame.select(held()).item() is named


def test_mentions_are_per_1k_and_compared_with_unsteered(
    store: LocalStore, output: build.Output
) -> None:
    rows = [build.row(i, f"p{i}", occupation="chef") for i in range(8)]
    rows.append(build.row(8, "p8"))  # no occupation known
    output.manifest(rows)
    output.cell("unsteered", "none", lambda row, _: "a chef" if row.image_id < "p6" else "a man")
    output.cell("steered", "gender", lambda row, _: "a chef" if row.image_id < "p3" else "a man")
    paths = analysis.run(store, ["occupation"], Analysis(bootstrap=50), quiet)
    assert paths == ["scores/occupation.parquet", "scores/comparisons/occupation.parquet"]
    found = scores.read(store, "occupation")
    assert found is not None
    rows_found = found[0].select("method", "attribute", "metric", "value", "n").rows()
    assert rows_found == [
        ("unsteered", "none", "mentions", 750.0, 8),
        ("steered", "gender", "mentions", 375.0, 8),
        ("steered", "gender", "change_percent", -50.0, 8),
    ]


def test_without_occupation_labels_all_leaves_it_out_and_its_name_is_refused(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest([build.row(i, f"p{i}") for i in range(3)])
    output.cell("unsteered", "none", lambda row, _: "a person")
    assert "scores/occupation.parquet" not in analysis.run(store, ["all"], Analysis(), quiet)
    with pytest.raises(LmmsteerError, match="occupation"):
        analysis.run(store, ["occupation"], Analysis(), quiet)
