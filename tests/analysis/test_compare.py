"""The table that holds methods against each other, from scores and logs written by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from analysis import compare, scores
from analysis.scores import Score
from analysis.stats import Interval
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Cell
from lmmsteer.store import LocalStore

AGE, NONE = "age", "none"


def score(
    method: str,
    of: str,
    metric: str,
    value: float | None,
    *bounds: float,
    attribute: str | None = None,
    group: str | None = None,
    dataset: str = "people",
) -> Score:
    """One score of a cell. of: the cell's attribute; attribute: the one that was counted."""
    low, high = bounds or (None, None)
    cell = Cell("tiny", method, of, dataset)
    interval = Interval(value, low, high)  # type: ignore[arg-type]
    return Score(cell, attribute or of, metric, interval, 90, 1.0, group)


def write(store: LocalStore, name: str, *found: Score) -> None:
    scores.write(store, f"scores/{name}.parquet", scores.table(found), {})


def log(store: LocalStore, name: str, *events: Any) -> None:
    for event in events:
        store.append(f"logs/{name}.jsonl", event if isinstance(event, str) else json.dumps(event))


def done(cell: str, seconds: float, **more: Any) -> dict[str, Any]:
    return {"event": "done", "cell": cell, "part": "part-00000.parquet", "seconds": seconds, **more}


@pytest.fixture
def filled(store: LocalStore) -> LocalStore:
    write(
        store,
        "mentions",
        score("steered", AGE, "per_1k", 120.4, 100.0, 140.0),
        score("steered", AGE, "change_percent", -80.0, -85.2, -75.5),
        score("steered", AGE, "per_1k", 999.0, group="old"),
        score("unsteered", NONE, "per_1k", 602.0, 560.0, 640.0, attribute=AGE),
        score("unsteered", NONE, "per_1k", 858.0, 800.0, 900.0, attribute="gender"),
        score("prompt", NONE, "per_1k", 300.0, 280.0, 320.0, attribute=AGE),
        score("prompt", NONE, "change_percent", 3.4, -1.0, 8.0, attribute=AGE),
        score("prompt", NONE, "per_1k", 1.0, 1.0, 1.0, attribute=AGE, dataset="others"),
    )
    write(
        store,
        "occupation",
        score("unsteered", NONE, "mentions", 522.0, 506.0, 539.0),
        score("steered", AGE, "mentions", 500.0, 480.0, 520.0),
        score("steered", "gender", "mentions", 1.0, 1.0, 1.0),
    )
    write(store, "sentiment", score("unsteered", NONE, "range_exact", 200.0))
    write(store, "vqa", score("unsteered", NONE, "MR_C", 3.24, 2.11, 4.75))
    log(
        store,
        "generate-1",
        {"event": "start"},
        done("tiny unsteered none people", 6.0),
        done("tiny unsteered none people", 4.0),
        done("tiny steered age people", 12.0),
        done("tiny steered gender people", 100.0),
        done("other unsteered none people", 100.0),
        done("tiny unsteered none others", 100.0),
        done("tiny unsteered none people", 100.0, created=False),
        "[1]",
        '{"event": "done", "cell": "tiny unst',
    )
    log(store, "resume-1", done("tiny steered age people", 3.0, created=True))
    log(store, "fit-1", done("tiny steered age people", 100.0))
    return store


def cells(text: str) -> list[str]:
    return [value.strip() for value in text.strip("|").split("|")]


def test_a_row_for_each_method_with_figures_and_intervals_and_times_against_unsteered(
    filled: LocalStore,
) -> None:
    head, rule, *rows = compare.table(filled, "tiny", "people", AGE)
    assert cells(head) == list(compare.HEADER)
    assert set(rule) == {"|", "-"}
    assert [cells(row) for row in rows] == [
        ["`unsteered`", "602 [560, 640]", "–", "522 [506, 539]", "200", "3.2 [2.1, 4.8]", "1.00x"],
        ["`prompt`", "300 [280, 320]", "+3% [-1, +8]", "–", "–", "–", "–"],
        # 12 + 3 seconds against 6 + 4.
        ["`steered`", "120 [100, 140]", "-80% [-85, -76]", "500 [480, 520]", "–", "–", "1.50x"],
    ]


def test_without_logs_of_the_baseline_there_are_no_times(filled: LocalStore) -> None:
    (filled.folder / "logs" / "generate-1.jsonl").unlink()
    rows = compare.table(filled, "tiny", "people", AGE)[2:]
    assert {cells(row)[-1] for row in rows} == {"–"}


def test_an_attribute_without_mentions_is_refused_with_the_command_that_counts_them(
    filled: LocalStore,
) -> None:
    with pytest.raises(LmmsteerError, match="no mentions of hat yet") as error:
        compare.table(filled, "tiny", "people", "hat")
    assert error.value.mend == f"Run: lmmsteer analyze out={filled.root}"


def test_names_with_spaces_are_told_apart(store: LocalStore) -> None:
    log(store, "generate-1", done("a b my method age my people", 2.0))
    assert compare._seconds(store, "a b", "my people") == {("my method", "age"): 2.0}
    assert compare._seconds(store, "a", "my people") == {("b my method", "age"): 2.0}
    assert compare._seconds(store, "b", "people") == {}


def test_on_screen_stands_a_table_for_each_attribute(
    filled: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main([filled.root]) == 0
    shown = capsys.readouterr().out
    titles = [line for line in shown.splitlines() if line.startswith("**")]
    assert titles == [
        "**age** (tiny, people)",
        "**gender** (tiny, people)",
        "**age** (tiny, others)",
    ]
    assert "| `unsteered` | 858 [800, 900] |" in shown


def test_a_folder_without_scores_and_a_line_without_a_folder_exit_with_2(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main([store.root]) == 2
    assert "has no scores yet. Run: lmmsteer analyze" in capsys.readouterr().err
    assert compare.main([]) == 2
    assert "python -m analysis.compare OUT" in capsys.readouterr().err
