"""What answers cost, from logs written by hand; the expected figures are calculated by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

import analysis
from analysis import Analysis, scores
from analysis.worked import worked
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet

GIB = 1 << 30
HERE = Analysis(bootstrap=50, permutations=20)


def log(store: LocalStore, name: str, *events: dict[str, Any]) -> None:
    for event in events:
        store.append(f"logs/{name}.jsonl", json.dumps(event))


def done(method: str, part: int, seconds: float, **more: Any) -> dict[str, Any]:
    """A part of 24 rows, all answered unless `failed` says so."""
    facts = {"rows": 24, "failed": {}, "new_tokens": 240, "device": "cpu", "created": True}
    place = {"cell": f"tiny {method} none people", "part": f"part-{part:05d}.parquet"}
    return {"event": "done", **place, "seconds": seconds, **facts, **more}


@pytest.fixture
def filled(store: LocalStore, output: build.Output) -> LocalStore:
    """48 rows in two parts: unsteered and prompt."""
    output.manifest(build.people(24))
    for method in ("unsteered", "prompt"):
        output.cell(method, "none", build.story({}))
    return store


def table(store: LocalStore) -> dict[tuple[str, str, str | None], dict[str, Any]]:
    assert analysis.run(store, ["cost"], HERE, quiet)
    found = scores.read(store, "cost")
    assert found is not None
    return {(r["method"], r["metric"], r["group"]): r for r in found[0].to_dicts()}


def test_seconds_tokens_and_memory_are_those_of_the_logs(filled: LocalStore) -> None:
    log(
        filled,
        "generate-1",
        done("unsteered", 0, 6.0, memory=2 * GIB),
        done("unsteered", 1, 4.0, memory=3 * GIB, failed={"nonfinite": 8}),
    )
    found = table(filled)
    assert found["unsteered", "seconds_per_answer", None]["value"] == pytest.approx(10 / 40)
    assert found["unsteered", "seconds_per_1k", None]["value"] == pytest.approx(250)
    assert found["unsteered", "tokens_per_second", None]["value"] == pytest.approx(48)
    peak = found["unsteered", "peak_memory", None]
    assert (peak["value"], peak["low"]) == (3.0, None)
    assert found["unsteered", "seconds_per_1k", "cpu"]["value"] == pytest.approx(250)
    assert (peak["n"], peak["coverage"]) == (48, 1.0)
    assert not [key for key in found if key[0] == "prompt"]


def test_ratios_are_taken_over_the_parts_that_both_have(filled: LocalStore) -> None:
    log(
        filled,
        "generate-1",
        done("unsteered", 0, 6.0, memory=2 * GIB),
        done("unsteered", 1, 400.0, memory=9 * GIB),
        done("prompt", 0, 9.0, memory=3 * GIB, new_tokens=120),
    )
    found = table(filled)
    assert found["prompt", "seconds_ratio", None]["value"] == pytest.approx(1.5)
    assert found["prompt", "tokens_per_second_ratio", None]["value"] == pytest.approx(1 / 3)
    assert found["prompt", "peak_memory_ratio", None]["value"] == pytest.approx(1.5)
    assert found["prompt", "seconds_ratio", None]["coverage"] == 0.5
    compared = scores.read(filled, "comparisons/cost")
    assert compared is not None
    (row,) = compared[0].to_dicts()
    assert row["difference"] == pytest.approx(1000 * (9 - 6) / 24)


def test_parts_of_different_devices_are_never_held_against_each_other(filled: LocalStore) -> None:
    log(
        filled,
        "generate-1",
        done("unsteered", 0, 6.0, device="A"),
        done("unsteered", 1, 4.0, device="B"),
        done("prompt", 0, 60.0, device="B"),
        done("prompt", 1, 8.0, device="B"),
    )
    found = table(filled)
    assert found["prompt", "seconds_ratio", None]["value"] == pytest.approx(2.0)
    assert found["prompt", "seconds_ratio", None]["n"] == 24
    assert found["unsteered", "seconds_per_answer", "A"]["value"] == pytest.approx(0.25)
    assert ("unsteered", "peak_memory", None) not in found


def test_cells_without_a_device_in_common_have_no_ratio_and_are_named(filled: LocalStore) -> None:
    log(
        filled,
        "generate-1",
        *(done("unsteered", n, 6.0, device="A") for n in (0, 1)),
        *(done("prompt", n, 6.0, device="B") for n in (0, 1)),
    )
    assert not [key for key in table(filled) if "ratio" in key[1]]
    found = scores.read(filled, "cost")
    assert found is not None
    about = found[1]["cost"]
    assert about["no part to compare with unsteered"] == ["tiny prompt none people"]
    assert about["devices"]["tiny prompt none people"] == ["B"]


def test_a_workers_first_part_of_its_model_is_not_compared(filled: LocalStore) -> None:
    log(
        filled,
        "generate-1",
        done("unsteered", 0, 90.0, worker=1),
        done("unsteered", 1, 4.0, worker=1),
        done("prompt", 0, 8.0, worker=1),
        done("prompt", 1, 8.0, worker=1),
    )
    found = table(filled)
    assert found["unsteered", "seconds_per_1k", None]["value"] == pytest.approx(1000 * 94 / 48)
    assert found["prompt", "seconds_ratio", None]["value"] == pytest.approx(2.0)
    assert found["prompt", "seconds_ratio", None]["n"] == 24
    compared = scores.read(filled, "comparisons/cost")
    assert compared is not None
    assert compared[0]["clusters"].to_list() == [1]


def test_a_worker_is_cold_again_after_another_model_and_each_worker_once(
    store: LocalStore,
) -> None:
    def of(model: str, worker: int) -> dict[str, Any]:
        return {**done("unsteered", 0, 1.0, worker=worker), "cell": f"{model} unsteered none d"}

    asked = [("a", 1), ("a", 2), ("a", 1), ("b", 1), ("a", 1), ("a", 2)]
    log(store, "generate-1", *(of(model, worker) for model, worker in asked))
    log(store, "resume-2", of("a", 1))
    found = [one.cold for _, one in worked(store)]
    assert found == [True, True, False, True, True, False, True]


def test_a_part_that_was_made_again_counts_as_it_was_made_last(filled: LocalStore) -> None:
    again = [done("unsteered", n, 1.2) for n in (0, 1)]
    log(filled, "resume-20260102T000000-b", *again, done("unsteered", 0, 9.0, created=False))
    log(filled, "generate-20260101T000000-a", *(done("unsteered", n, 100.0) for n in (0, 1)))
    assert table(filled)["unsteered", "seconds_per_1k", None]["value"] == pytest.approx(50)


def test_an_output_without_logs_is_refused_by_name_and_left_out_of_all(filled: LocalStore) -> None:
    with pytest.raises(LmmsteerError, match="cost needs") as error:
        analysis.run(filled, ["cost"], HERE, quiet)
    assert "logs" in error.value.mend
    assert "scores/cost.parquet" not in analysis.run(filled, ["all"], HERE, quiet)


def test_parts_are_said_to_be_what_is_resampled(filled: LocalStore) -> None:
    said: list[str] = []
    log(filled, "generate-1", done("unsteered", 0, 6.0))
    analysis.run(filled, ["cost"], HERE, said.append)
    assert "resamples by part;" in said[-1]
