from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from analysis import Analysis, scores
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Request
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet
from tests.conftest import Command
from tests.models.test_toxicity import saved

Values = dict[tuple[str, str, str | None], float | None]


class Told:
    """A scorer whose texts say their probability themselves, and which counts them."""

    about: dict[str, Any] = {"classifier": "told"}  # noqa: RUF012

    def __init__(self) -> None:
        self.seen: list[str] = []

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        self.seen += texts
        return [float(text) for text in texts]


# Two counterfactual sets of three pictures, one picture without a set, two seeds each.
PEOPLE = [
    ("p0", "s0", "man", "White"),
    ("p1", "s0", "woman", "White"),
    ("p2", "s0", "woman", "Black"),
    ("p3", "s1", "man", "Black"),
    ("p4", "s1", "man", "Asian"),
    ("p5", "s1", "woman", None),
    ("p6", None, "woman", "Asian"),
]
PLAIN = [(0.1, 0.2), (0.9, 0.5), (0.4, 0.3), (0.6, 0.0), (0.2, 0.7), (0.5, 0.5), (0.8, 0.0)]


def rows() -> list[Request]:
    return [
        Request(f"{2 * i + seed:032x}", image, "describe", "?", seed, group, race=race, gender=sex)
        for i, (image, group, sex, race) in enumerate(PEOPLE)
        for seed in (0, 1)
    ]


def told(row: Request, steered: bool = False) -> str:
    value = PLAIN[int(row.image_id[1:])][row.seed]
    return str(value / 2 if steered else value)


def run(store: LocalStore, output: build.Output, **keys: Any) -> tuple[Values, Told]:
    output.manifest(rows())
    output.cell("unsteered", "none", lambda row, _: told(row))
    output.cell("prompt", "none", lambda row, _: told(row, steered=True))
    scorer = Told()
    settings = Analysis(**{"name": "toxicity", "bootstrap": 20, "by": "gender", **keys})
    analysis.run(store, ["toxicity"], settings, quiet, scorer)
    found = scores.read(store, "toxicity")
    assert found is not None
    rows_ = found[0].select("method", "metric", "group", "value").rows()
    return {(method, metric, group): value for method, metric, group, value in rows_}, scorer


def test_means_shares_and_groups_are_those_of_a_hand_calculation(
    store: LocalStore, output: build.Output
) -> None:
    values, _ = run(store, output)
    assert values["unsteered", "toxicity", None] == pytest.approx(100 * 5.7 / 14)
    # Seven of fourteen are 0.5 or more: 0.9, 0.5, 0.6, 0.7, 0.5, 0.5, 0.8.
    assert values["unsteered", "toxic", None] == pytest.approx(50)
    assert values["unsteered", "toxicity", "man"] == pytest.approx(100 * 1.8 / 6)
    assert values["unsteered", "toxicity", "woman"] == pytest.approx(100 * 3.9 / 8)
    assert values["unsteered", "toxic", "man"] == pytest.approx(100 * 2 / 6)
    assert values["prompt", "toxicity_change", None] == pytest.approx(-50 * 5.7 / 14)
    assert values["prompt", "toxic_change", None] == pytest.approx(-50)


def test_d_mean_is_the_mean_of_the_label_columns_gaps(
    store: LocalStore, output: build.Output
) -> None:
    values, _ = run(store, output)
    by_gender = 100 * (3.9 / 8 - 1.8 / 6)
    # White (0.3 + 1.4) / 4, Black (0.7 + 0.6) / 4, Asian (0.9 + 0.8) / 4; p5 has no label.
    by_race = 100 * (1.7 / 4 - 1.3 / 4)
    assert values["unsteered", "gap_gender", None] == pytest.approx(by_gender)
    assert values["unsteered", "gap_race", None] == pytest.approx(by_race)
    assert values["unsteered", "D_mean", None] == pytest.approx((by_gender + by_race) / 2)
    assert values["prompt", "D_mean", None] == pytest.approx((by_gender + by_race) / 4)
    compared = scores.read(store, "comparisons/toxicity")
    assert compared is not None
    differences = dict(compared[0].select("metric", "difference").rows())
    assert differences["D_mean"] == pytest.approx(-(by_gender + by_race) / 4)
    assert {"toxicity", "toxic", "max_toxicity", "set_gap"} <= set(differences)


def test_the_columns_of_d_mean_can_be_chosen(store: LocalStore, output: build.Output) -> None:
    values, _ = run(store, output, toxicity_categories=["race"])
    assert values["unsteered", "D_mean", None] == values["unsteered", "gap_race", None]
    assert ("unsteered", "gap_gender", None) not in values
    assert values["unsteered", "toxicity", "man"] == pytest.approx(30)


def test_max_toxicity_is_taken_within_a_set_of_one_prompt_and_seed(
    store: LocalStore, output: build.Output
) -> None:
    values, _ = run(store, output)
    largest = [90, 50, 60, 70]  # set 0 seed 0 and 1, set 1 seed 0 and 1; p6 is in no set
    smallest = [10, 20, 20, 0]
    assert values["unsteered", "max_toxicity", None] == pytest.approx(statistics.mean(largest))
    assert values["unsteered", "set_gap", None] == pytest.approx(
        statistics.mean(a - b for a, b in zip(largest, smallest, strict=True))
    )
    assert values["unsteered", "max_toxicity_sd", None] == pytest.approx(statistics.stdev(largest))
    for name, at in (("p25", 25), ("p50", 50), ("p75", 75), ("p90", 90), ("max", 100)):
        expected = pytest.approx(np.percentile(largest, at))
        assert values["unsteered", f"max_toxicity_{name}", None] == expected
    assert values["prompt", "max_toxicity_change", None] == pytest.approx(-67.5 / 2)


def test_a_set_of_which_one_picture_was_answered_has_no_max(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest(rows())
    only = {"p0", "p3", "p4", "p6"}
    output.cell("unsteered", "none", lambda row, _: told(row) if row.image_id in only else None)
    settings = Analysis(name="toxicity", bootstrap=20)
    analysis.run(store, ["toxicity"], settings, quiet, Told())
    found = scores.read(store, "toxicity")
    assert found is not None
    values = {
        metric: (value, n) for metric, value, n in found[0].select("metric", "value", "n").rows()
    }
    assert values["max_toxicity"] == (pytest.approx(65), 2)


def test_equal_texts_of_a_cell_are_scored_once_and_every_row_has_its_own(
    store: LocalStore, output: build.Output
) -> None:
    _, scorer = run(store, output)
    plain = {str(value) for pair in PLAIN for value in pair}
    assert len(scorer.seen) == len(plain) + len({float(value) / 2 for value in plain})
    kept = scores.read(store, "toxicity.rows")
    assert kept is not None
    by_row = {
        r: t for m, r, t in kept[0].select("method", "row_id", "toxicity").rows() if m == "prompt"
    }
    assert by_row == {row.row_id: float(told(row, steered=True)) for row in rows()}


def test_the_threshold_is_a_key(store: LocalStore, output: build.Output) -> None:
    values, _ = run(store, output, toxicity_threshold=0.8)
    assert values["unsteered", "toxic", None] == pytest.approx(100 * 2 / 14)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"toxicity_threshold": 0.0}, r"analysis\.toxicity_threshold=0\.0"),
        ({"toxicity_threshold": 1.5}, r"analysis\.toxicity_threshold=1\.5"),
        ({"toxicity_categories": ["shoes"]}, r"analysis\.toxicity_categories holds shoes"),
        ({"toxicity_categories": ["text"]}, r"analysis\.toxicity_categories holds text"),
        ({"by": "shoes"}, r"analysis\.by=shoes"),
    ],
)
def test_keys_that_cannot_be_are_refused_in_a_sentence(
    keys: dict[str, Any], says: str, store: LocalStore, output: build.Output
) -> None:
    with pytest.raises(LmmsteerError, match=says):
        run(store, output, **keys)


def test_without_a_classifier_all_leaves_it_out_and_its_name_is_refused(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest(rows())
    output.cell("unsteered", "none", lambda row, _: told(row))
    written = analysis.run(store, ["all"], Analysis(bootstrap=5), quiet)
    assert "scores/toxicity.parquet" not in written
    with pytest.raises(LmmsteerError, match=r"analysis\.toxicity=FOLDER"):
        analysis.run(store, ["toxicity"], Analysis(name="toxicity"), quiet)


def test_answers_without_a_manifest_have_no_groups_and_no_sets(
    store: LocalStore, output: build.Output
) -> None:
    output.rows = rows()
    output.cell("unsteered", "none", lambda row, _: told(row), ours=False)
    settings = Analysis(name="toxicity", bootstrap=5)
    analysis.run(store, ["toxicity"], settings, quiet, Told())
    found = scores.read(store, "toxicity")
    assert found is not None
    assert found[0]["metric"].to_list() == ["toxicity", "toxic"]


def test_the_command_reads_the_folder_it_is_given_and_refuses_what_is_none(
    store: LocalStore, output: build.Output, tmp_path: Path, command: Command
) -> None:
    folder = saved(tmp_path / "classifier", ["neutral", "toxic"])
    output.manifest(rows())
    output.cell("unsteered", "none", lambda row, _: "a person is rude")
    line = ["analyze", "analysis=toxicity", "analysis.bootstrap=5", f"out={output.root}"]
    code, _, err = command(*line, f"analysis.toxicity={tmp_path / 'no'}")
    assert (code, "is not a folder" in err) == (2, True)
    assert not store.exists("scores/toxicity.parquet")
    code, _, err = command(*line)
    assert (code, "analysis.toxicity=FOLDER" in err) == (2, True)
    code, out, _ = command(*line, f"analysis.toxicity={folder}")
    assert (code, "scores/toxicity.parquet" in out) == (0, True)
    found = scores.read(store, "toxicity")
    assert found is not None
    assert found[1]["toxicity"]["labels"] == ["toxic"]
