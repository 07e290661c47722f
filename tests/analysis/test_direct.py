from __future__ import annotations

import pytest

import analysis
from analysis import Analysis, scores
from analysis.direct import named
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet

RACES = ["White", "White", "Black", "Black", "Middle_Eastern", "Middle_Eastern", None]
PLAIN = ["white.", "A white person", "Black", "white", "middle eastern", "Middle-Eastern", "Black"]
STEERED = ["white", "Black or white", "BLACK", "black", "unclear", "middle", "white"]


def test_accuracy_worst_group_and_its_change_are_those_of_a_hand_count(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest([build.row(i, f"p{i}", race=race) for i, race in enumerate(RACES)])
    output.cell("unsteered", "none", lambda row, _: PLAIN[int(row.image_id[1:])])
    output.cell("prompt", "none", lambda row, _: STEERED[int(row.image_id[1:])])
    settings = Analysis(name="direct", bootstrap=20, direct="describe", by="race")
    analysis.run(store, ["direct"], settings, quiet)
    found = scores.read(store, "direct")
    assert found is not None
    rows = found[0].select("method", "metric", "group", "value").rows()
    values = {(method, metric, group): value for method, metric, group, value in rows}
    # Unsteered: white 2 of 2, black 1 of 2, middle eastern 2 of 2; p6 has no label.
    assert values["unsteered", "accuracy", None] == pytest.approx(100 * 5 / 6)
    assert values["unsteered", "accuracy", "black"] == pytest.approx(50)
    assert values["unsteered", "worst_group_accuracy", None] == pytest.approx(50)
    # Steered: white 1 of 2 (the other names two), black 2 of 2, middle eastern 0 of 2.
    assert values["prompt", "accuracy", "white"] == pytest.approx(50)
    assert values["prompt", "worst_group_accuracy", None] == pytest.approx(0)
    assert values["prompt", "D_WCA", None] == pytest.approx(-50)
    assert found[0]["n"].max() == 6


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("a very old person", {"very old"}),
        ("old, very old", {"old", "very old"}),
        ("golden", set()),
        ("old old", {"old"}),
    ],
)
def test_a_longer_label_hides_the_shorter_one_within_it(said: str, found: set[str]) -> None:
    assert named(said, ["old", "very old"]) == found


def test_without_its_prompt_it_is_refused_in_a_sentence(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest([build.row(0, "p0", race="White")])
    output.cell("unsteered", "none", lambda row, _: "white")
    with pytest.raises(LmmsteerError, match=r"analysis\.direct"):
        analysis.run(store, ["direct"], Analysis(name="direct"), quiet)
