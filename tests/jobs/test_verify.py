"""lmmsteer verify: what a user sees, and that resume makes again what it moved away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.corruption import tree
from tests.fleet import runs

CELL = tree.RECORDS[0].cell.folder
PART = f"{CELL}/part-00001.parquet"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    tree.build(tmp_path / "out")
    return tmp_path / "out"


def test_a_healthy_run_takes_one_line_and_exits_with_0(out: Path, command: Command) -> None:
    assert command("verify", f"out={out}") == (0, f"{out}: 22 of 22 parts checked, 0 faults\n", "")


def test_each_fault_is_a_line_that_begins_with_its_path(out: Path, command: Command) -> None:
    (out / PART).write_bytes(b"")
    (out / PART.replace("00001", "00002")).unlink()
    code, shown, _ = command("verify", f"out={out}")
    assert code == 1
    assert shown.splitlines() == [
        f"{PART} is empty",
        f"{PART.replace('00001', '00002')} is missing",
        f"{out}: 21 of 21 parts checked, 2 faults;"
        f" move the bad ones aside with: lmmsteer verify repair=true out={out}",
    ]


def test_a_repair_moves_the_bad_ones_and_names_the_command_that_comes_next(
    out: Path, command: Command
) -> None:
    (out / PART).write_bytes(b"")
    code, shown, _ = command("verify", f"out={out}", "repair=true")
    assert code == 1
    (moved,) = (out / "trash").rglob("part-*")
    folder = next((out / "trash").iterdir())
    assert moved == folder / PART
    assert shown.splitlines()[-1] == (
        f"{out}: 22 of 22 parts checked, 1 fault; 1 moved to {folder};"
        f" make them again with: lmmsteer resume out={out}"
    )
    code, shown, _ = command("verify", f"out={out}", "repair=true")
    assert (code, shown.splitlines()[0]) == (1, f"{PART} is missing")


def test_json_names_what_was_found_and_what_was_moved(out: Path, command: Command) -> None:
    (out / PART).write_bytes(b"")
    code, shown, _ = command("verify", f"out={out}", "json=true", "repair=true")
    found = json.loads(shown)
    assert code == 1
    trash = found.pop("trash")
    assert (out / trash / PART).is_file()
    assert found == {
        "out": str(out),
        "checked": 22,
        "parts": 22,
        "sample": 1.0,
        "faults": [{"path": PART, "fault": "is empty", "kind": "damaged"}],
        "unverified": [],
        "unsealed": 0,
        "repaired": [PART],
    }


def test_a_sample_is_said_to_be_one(out: Path, command: Command) -> None:
    code, shown, _ = command("verify", f"out={out}", "sample=0.5", "sample_seed=3")
    assert code == 0
    assert "of 22 parts checked, 0 faults; a sample (sample=0.5 sample_seed=3)" in shown


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("sample=0", "sample=0.0 is out of range"),
        ("sample=2", "sample=2.0 is out of range"),
        ("workers=0", "workers=0 is out of range"),
        ("grace=-1", "grace=-1.0 is out of range"),
        ("repairs=true", "repairs is not a key of lmmsteer verify"),
    ],
)
def test_what_makes_no_sense_is_refused(given: str, says: str, out: Path, command: Command) -> None:
    code, shown, err = command("verify", f"out={out}", given)
    assert (code, shown) == (2, "")
    assert says in err


def test_a_folder_without_a_run_is_refused_and_not_made(tmp_path: Path, command: Command) -> None:
    code, _, err = command("verify", f"out={tmp_path / 'none'}")
    assert code == 2
    assert "holds no manifest, answers or artifacts to verify" in err
    assert not (tmp_path / "none").exists()


def test_a_damaged_footer_is_named_by_status_with_the_command_that_mends_it(
    out: Path, command: Command
) -> None:
    (out / PART).write_bytes((out / PART).read_bytes()[:-4])
    code, shown, err = command("status", f"out={out}")
    assert code in (1, 2)
    assert f"{PART} is damaged" in shown + err
    assert "lmmsteer verify repair=true" in shown + err


def test_resume_makes_again_what_a_repair_moved_away_byte_for_byte(tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs.run(runs.line("generate", runs.photos(tmp_path / "photos"), out))
    healthy = tree.state(out)
    part = next((out / "responses").rglob("part-00002.parquet"))
    rows = next((out / "manifest").rglob("rows/part-00004.parquet"))
    part.write_bytes(part.read_bytes().replace(b"PAR1", b"PAR2"))
    rows.write_bytes(b"")
    shown = runs.run([*runs.of("verify", out), "repair=true"], expect=1).stdout
    assert shown.count(" is ") == 2
    assert f"lmmsteer resume out={out}" in shown
    runs.run(runs.of("resume", out))
    runs.run(runs.of("verify", out))
    now = tree.state(out)
    logs = [path for path in {*now, *healthy} if path.startswith("logs/")]
    for path in logs:
        now.pop(path, None)
        healthy.pop(path, None)
    assert now == healthy
