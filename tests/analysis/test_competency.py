from __future__ import annotations

import statistics
from pathlib import Path

import pytest

import analysis
from analysis import Analysis, scores
from analysis.competency import SHIPPED, read_words
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet

SAID = {
    "p0": "Skilled, skilled and smart.",  # two listed words, one of them twice
    "p1": "A smart person.",
    "p2": "Nothing to see.",
    "p3": "SMART, able",
}


def test_words_count_once_an_answer_and_groups_are_compared(
    store: LocalStore, output: build.Output, tmp_path: Path
) -> None:
    listed = tmp_path / "words.txt"
    listed.write_text("# a list\nSkilled\nsmart  # comment\nable\n\n")
    genders = ("man", "man", "woman", "woman")
    output.manifest([build.row(i, f"p{i}", gender=g) for i, g in enumerate(genders)])
    output.cell("unsteered", "none", lambda row, _: SAID[row.image_id])
    output.cell("prompt", "none", lambda row, _: "able")
    settings = Analysis(bootstrap=20, by="gender", competency=str(listed))
    analysis.run(store, ["competency"], settings, quiet)
    found = scores.read(store, "competency")
    assert found is not None
    values = {
        (m, k, g): v for m, k, g, v in found[0].select("method", "metric", "group", "value").rows()
    }
    assert values["unsteered", "competency_per_1k", None] == pytest.approx(1000 * 5 / 4)
    assert values["unsteered", "competency_per_1k", "man"] == pytest.approx(1500)
    assert values["unsteered", "competency_per_1k", "woman"] == pytest.approx(1000)
    assert values["unsteered", "variance", None] == pytest.approx(statistics.variance([1500, 1000]))
    assert values["unsteered", "range", None] == pytest.approx(500)
    assert values["prompt", "competency_per_1k_change", None] == pytest.approx(1000 - 1250)


def test_the_shipped_list_holds_single_lower_case_words() -> None:
    words = read_words(SHIPPED)
    assert "skilled" in words
    assert all(word == word.lower() and word.isalpha() for word in words)


@pytest.mark.parametrize("text", ["two words\n", "# nothing\n"])
def test_a_list_that_is_none_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(LmmsteerError, match=r"analysis\.competency"):
        read_words(path)
    with pytest.raises(LmmsteerError, match="cannot be read"):
        read_words(tmp_path / "absent.txt")
