"""status: from the folder alone, never at odds with the listing, one damage hides nothing else."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from lmmsteer.fleet import overview
from tests.conftest import Command
from tests.fleet.outputs import MIDNIGHT, at, cell, done, log, manifest, part


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes after midnight."""
    monkeypatch.setattr(time, "time", lambda: MIDNIGHT + 600)


def look(command: Command, out: Path, *more: str, code: int = 1) -> dict[str, Any]:
    found, text, err = command("status", f"out={out}", "json=true", *more)
    assert (found, err) == (code, "")
    return json.loads(text)


def test_a_cell_is_complete_when_the_listing_has_every_planned_part(
    tmp_path: Path, command: Command
) -> None:
    manifest(tmp_path, 2)
    record = cell(tmp_path)
    part(tmp_path, record, 0)
    part(tmp_path, record, 7)  # planned by nobody
    (found,) = look(command, tmp_path)["cells"]
    assert (found["state"], found["shards_done"], found["shards_left"]) == ("incomplete", 1, 1)
    assert (found["rows_done"], found["rows_left"]) == (10, 10)
    part(tmp_path, record, 1)
    (found,) = look(command, tmp_path, code=0)["cells"]
    assert (found["state"], found["shards_left"], found["rows_left"]) == ("complete", 0, 0)


def test_failed_rows_are_counted_by_reason_and_judged_by_the_cells_own_share(
    tmp_path: Path, command: Command
) -> None:
    manifest(tmp_path, 2)
    for method, share in (("strict", 0.1), ("lenient", 0.2)):
        record = cell(tmp_path, method, share)
        part(tmp_path, record, 0, failed={"picture_broken": 2})
        part(tmp_path, record, 1, failed={"picture_broken": 1, "nonfinite": 1})
    found = look(command, tmp_path)
    assert {c["method"]: c["state"] for c in found["cells"]} == {
        "strict": "failed",
        "lenient": "complete",
    }
    assert found["cells"][0]["failed"] == {"nonfinite": 1, "picture_broken": 3}
    assert found["total"]["failed"] == {"nonfinite": 2, "picture_broken": 6}
    text = command("status", f"out={tmp_path}")[1]
    assert "4 of 20 rows, more than max_failed_share=0.1\n  Do their shards again with:" in text
    look(command, tmp_path, "max_failed_share=0.2", code=0)


def test_damage_is_named_in_its_own_cell_and_the_others_are_shown(
    tmp_path: Path, command: Command
) -> None:
    manifest(tmp_path, 2)
    swapped = cell(tmp_path / "elsewhere", "other")
    for method in ("footer", "record", "short", "whole", "none", "swapped"):
        record = cell(tmp_path, method)
        part(tmp_path, record, 0)
        path = part(tmp_path, record, 1, rows=9 if method == "short" else 10)
        if method == "footer":
            path.write_bytes(b"PAR1")
        if method == "record":
            (path.parent / "_cell.json").write_text("{")
        if method == "swapped":
            (path.parent / "_cell.json").write_bytes(swapped.to_bytes())
        if method == "none":
            (path.parent / "_cell.json").unlink()
    code, text, _ = command("status", f"out={tmp_path}")
    assert code == 1
    assert "m whole a d    complete, 2 of 2 shards  20 of 20 rows" in text
    found = {c["method"]: c for c in look(command, tmp_path)["cells"]}
    assert {c["state"] for m, c in found.items() if m != "whole"} == {"damaged"}
    for method, says in (
        ("footer", "part-00001.parquet is damaged"),
        ("record", "_cell.json is damaged"),
        ("short", "part-00001.parquet has 9 rows, and its shard 10"),
        ("none", "has parts and no _cell.json"),
        ("swapped", "_cell.json is that of another cell (m other a d)"),
    ):
        (fault,) = found[method]["damaged"]
        assert says in fault["error"]
        assert fault["mend"]
        assert says in text
    assert found["footer"]["rows_done"] == 10


def test_a_damaged_or_missing_manifest_is_named_and_nothing_is_called_complete(
    tmp_path: Path, command: Command
) -> None:
    record = cell(tmp_path)
    part(tmp_path, record, 0)
    code, text, _ = command("status", f"out={tmp_path}")
    assert (code, "the manifest of d is not there" in text) == (1, True)
    manifest(tmp_path, 1)
    (tmp_path / "manifest/dataset=d/_manifest.json").write_text("{}")
    (found,) = look(command, tmp_path)["cells"]
    assert found["state"] == "damaged"
    assert "_manifest.json is damaged" in found["damaged"][0]["error"]


def running(out: Path) -> None:
    """Two cells of 4 shards; by a driver with 2 workers, 4 shards done, the last 20 s ago."""
    manifest(out, 4)
    for method in ("x", "y"):
        record = cell(out, method)
        for number in range(3 if method == "x" else 1):
            part(out, record, number)
    log(
        out,
        at(0, "start", driver="ab12", pid=7, host="elsewhere"),
        at(5, "worker", worker=1, device="cpu"),
        at(5, "worker", worker=2, device="cpu"),
        at(6, "refused", member="method=z", error="z is unknown.", mend="Use another."),
        done(520, 18.0),
        done(540, 20.0),
        done(560, 22.0),
        at(570, "death", worker=2, error="killed", cause="died", cell="m x a d", part="p"),
        at(571, "worker", worker=3, device="cpu"),
        done(580, 20.0, cell="m y a d"),
    )


def test_the_time_left_is_the_paces_of_the_cells_over_the_workers(
    tmp_path: Path, command: Command, now: None
) -> None:
    # x: 60 s for 30 rows, 10 rows left, 20 s: m = 1, v = (4 + 0 + 4) / 2 = 4, Var = 4 (1 + 1/3).
    # y has one shard alone: at the pace of the model, 80 s for 40 rows, 30 rows left, 60 s:
    # m = 3, v = 8 / 3, Var = 8/3 * 3 (1 + 3/4) = 14. Sum 80 s, Var 19 1/3; two workers: 40 s.
    # Degrees: (19 1/3)^2 / ((16/3)^2 / 2 + 14^2 / 3) = 4.69, taken as 4: t = 2.776.
    running(tmp_path)
    found = look(command, tmp_path)
    half = 2.776 * (58 / 3) ** 0.5 / 2
    assert (found["running"], found["workers"], found["rows_per_second"]) == (True, 2, 1.0)
    left = found["seconds_left"]
    assert (left["workers"], left["borrowed"]) == (2, 1)
    assert [left[k] for k in ("estimate", "low", "high")] == pytest.approx(
        [40.0, 40.0 - half, 40.0 + half], rel=1e-3
    )
    rates = [c["rows_per_second_of_a_worker"] for c in found["cells"]]
    assert rates == [0.5, 0.5]


def test_drivers_errors_and_refused_members_are_told_with_where_to_read_more(
    tmp_path: Path, command: Command, now: None
) -> None:
    running(tmp_path)
    code, text, _ = command("status", f"out={tmp_path}")
    assert code == 1
    assert "driver generate ab12 on elsewhere (pid 7): 2 workers, 4 shards done" in text
    assert "last event 20 s ago" in text
    assert "40 rows left: about 40 s (34 s to 46 s) at 1.00 rows/s, 2 workers" in text
    assert "m x a d p: worker 2 died: killed" in text
    assert f"more in {tmp_path}/logs/generate-1.jsonl" in text
    assert "refused in the last run: method=z: z is unknown.\n  Use another." in text


def test_where_nobody_is_at_work_the_command_that_goes_on_is_named(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(tmp_path)
    monkeypatch.setattr(time, "time", lambda: MIDNIGHT + 36_000)
    text = command("status", f"out={tmp_path}")[1]
    assert f"40 rows left; nobody is seen at work: lmmsteer resume out={tmp_path}" in text
    assert "with 2 workers as in the last run it takes about 40 s (34 s to 46 s)" in text
    assert "no end in its log, and last event 9.8 h ago" in text


def test_an_older_runs_pace_gives_way_to_that_of_the_drivers_at_work(
    tmp_path: Path, command: Command, now: None
) -> None:
    running(tmp_path)
    log(tmp_path, *(done(n, 2000.0) for n in range(9)), name="generate-0")
    assert look(command, tmp_path)["cells"][0]["rows_per_second_of_a_worker"] == 0.5


def test_without_a_finished_shard_the_time_is_not_known(
    tmp_path: Path, command: Command, now: None
) -> None:
    manifest(tmp_path, 2)
    cell(tmp_path)
    log(tmp_path, at(590, "start"), at(595, "worker", worker=1))
    assert look(command, tmp_path)["seconds_left"] is None
    assert "how long they take is not known yet" in command("status", f"out={tmp_path}")[1]


def test_no_more_workers_count_than_shards_are_left(
    tmp_path: Path, command: Command, now: None
) -> None:
    running(tmp_path)
    log(tmp_path, *(at(5, "worker", worker=n) for n in range(9)), done(580, 20.0), name="resume-2")
    assert look(command, tmp_path)["seconds_left"]["workers"] == 4


def finish_while_asleep(out: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Between two looks, the next missing part of x is made. Returns the pauses."""
    record = cell(out)
    part(out, record, 0)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        part(out, record, len(pauses))

    monkeypatch.setattr(time, "sleep", sleep)
    return pauses


@pytest.mark.parametrize(
    ("asked", "seconds"), [("--watch", 5.0), ("--watch=9", 9.0), ("watch=true", 5.0)]
)
def test_watch_looks_until_all_is_complete(
    asked: str, seconds: float, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest(tmp_path, 3)
    pauses = finish_while_asleep(tmp_path, monkeypatch)
    code, text, _ = command("status", asked, f"out={tmp_path}")
    assert (code, pauses) == (0, [seconds] * 2)
    assert [line for line in text.splitlines() if " of 3 shards  " in line] == [
        "m x a d  incomplete, 1 of 3 shards  10 of 30 rows  failed rows: 0",
        "m x a d  incomplete, 2 of 3 shards  20 of 30 rows  failed rows: 0",
        "m x a d  complete, 3 of 3 shards  30 of 30 rows  failed rows: 0",
    ]


def test_watch_as_json_is_a_line_for_each_look(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest(tmp_path, 3)
    finish_while_asleep(tmp_path, monkeypatch)
    _, text, _ = command("status", "--watch", "json=true", f"out={tmp_path}")
    looks = [json.loads(line) for line in text.splitlines()]
    assert [one["total"]["shards_done"] for one in looks] == [1, 2, 3]


def test_watch_ends_with_ctrl_c_and_the_code_of_its_last_look(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    manifest(tmp_path, 3)
    cell(tmp_path)
    monkeypatch.setattr(time, "sleep", interrupt)
    code, _, err = command("status", "--watch", f"out={tmp_path}")
    assert (code, err) == (1, "")


@pytest.mark.parametrize("value", ["-1", "0", "often"])
def test_a_watch_that_is_no_time_is_refused(value: str, tmp_path: Path, command: Command) -> None:
    code, _, err = command("status", f"watch={value}", f"out={tmp_path}")
    assert (code, "neither true nor a number of seconds" in err) == (2, True)


def test_many_errors_of_a_run_are_cut_to_the_last(
    tmp_path: Path, command: Command, now: None
) -> None:
    manifest(tmp_path, 2)
    cell(tmp_path)
    failures = (at(n, "failure", cell="m x a d", part="", error=f"no {n}") for n in range(30))
    log(tmp_path, *failures)
    errors = look(command, tmp_path)["errors"]
    assert [e["error"] for e in errors] == [f"no {n}" for n in range(25, 30)]
    assert len(errors) == overview.LAST_ERRORS
