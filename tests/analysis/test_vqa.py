from __future__ import annotations

import math

import polars as pl
import pytest

import analysis
from analysis import Analysis, scores
from analysis.vqa import detected
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A man stands here.", "male"),
        ("SHE smiles", "female"),
        ("He and his wife", "both"),
        ("A person with a hat", "none"),
        ("the theme of history", "none"),
        ("", "none"),
    ],
)
def test_what_an_answer_speaks_of_is_read_from_whole_words(text: str, said: str) -> None:
    assert pl.DataFrame({"text": [text]}).select(detected()).item() == said


def test_rates_are_those_of_a_hand_calculation(store: LocalStore, output: build.Output) -> None:
    texts = ["She waves.", "He waves.", "He and she wave.", "They wave."] * 3
    genders = ["man"] * 5 + ["Female"] * 6 + ["unknown"]
    rows = [build.row(i, f"p{i}", gender=gender) for i, gender in enumerate(genders)]
    output.manifest(rows)
    output.cell("unsteered", "none", lambda row, _: texts[int(row.image_id[1:])])
    assert analysis.run(store, ["vqa"], Analysis(bootstrap=50), quiet) == ["scores/vqa.parquet"]
    found = scores.read(store, "vqa")
    assert found is not None
    values = dict(found[0].select("metric", "value").rows())
    # Men p0-p4 say she, he, both, they, she: 2 of 5 wrong; women p5-p10 he, both, they, she, he,
    # both: 2 of 6 wrong. p11 has a label that is neither.
    assert values["MR_M"] == pytest.approx(40)
    assert values["MR_F"] == pytest.approx(100 / 3)
    assert values["MR_O"] == pytest.approx(400 / 11)
    assert values["MR_C"] == pytest.approx(math.hypot(400 / 11, 100 / 3 - 40))
    assert values["worst_group_accuracy"] == pytest.approx(60)
    assert "D_WCA" not in values
    assert found[0]["n"].unique().to_list() == [11]


def test_the_worst_group_s_accuracy_is_held_against_unsteered_over_the_pictures_of_both(
    store: LocalStore, output: build.Output
) -> None:
    genders = ["man", "man", "woman", "woman", "woman", "woman"]
    output.manifest([build.row(i, f"p{i}", gender=gender) for i, gender in enumerate(genders)])
    plain = ["he", "she", "she", "she", "he", "they"]
    steered = ["he", "he", "he", "he", "he", None]  # p5 is answered by unsteered alone.
    output.cell("unsteered", "none", lambda row, _: plain[int(row.image_id[1:])])
    output.cell("prompt", "none", lambda row, _: steered[int(row.image_id[1:])])
    analysis.run(store, ["vqa"], Analysis(bootstrap=20), quiet)
    found = scores.read(store, "vqa")
    assert found is not None
    rows = found[0].select("method", "metric", "value", "n").rows()
    values = {(method, metric): (value, n) for method, metric, value, n in rows}
    # Unsteered: men 1 of 2 right, women 3 of 4; without p5 2 of 3. Steered: women 0 of 3.
    assert values["unsteered", "worst_group_accuracy"] == (50, 6)
    assert values["prompt", "worst_group_accuracy"] == (0, 5)
    assert values["prompt", "D_WCA"] == (-50, 5)


def test_the_worst_group_is_the_only_one_where_one_label_occurs(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest([build.row(i, f"p{i}", gender="man") for i in range(4)])
    output.cell("unsteered", "none", lambda row, _: "she" if row.image_id == "p0" else "he")
    analysis.run(store, ["vqa"], Analysis(bootstrap=20), quiet)
    found = scores.read(store, "vqa")
    assert found is not None
    values = dict(found[0].select("metric", "value").rows())
    assert values["worst_group_accuracy"] == 75
    assert values["MR_F"] is None


def test_without_gender_labels_all_leaves_it_out(store: LocalStore, output: build.Output) -> None:
    output.manifest([build.row(i, f"p{i}") for i in range(3)])
    output.cell("unsteered", "none", lambda row, _: "a man")
    assert "scores/vqa.parquet" not in analysis.run(store, ["all"], Analysis(bootstrap=5), quiet)
