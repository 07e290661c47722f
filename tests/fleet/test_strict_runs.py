"""Strict mode through the command line: a row's answer hangs on nothing but the row."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray")

import pyarrow.dataset as ds

from tests.fleet import runs

STRICT = ("engine.strict=true", "engine.slots=16", "attribute=gender")


def answers(out: Path) -> list[dict[str, object]]:
    """Every row's response, by row id."""
    folder = next((out / "responses").rglob("_cell.json")).parent
    table = ds.dataset(sorted(folder.glob("part-*.parquet"))).to_table()
    return sorted(table.to_pylist(), key=lambda row: row["row_id"])


@pytest.mark.parametrize("method", ["steered_gradient"])
def test_shard_sizes_a_kill_and_a_resume_change_no_answer(tmp_path: Path, method: str) -> None:
    data = runs.photos(tmp_path / "photos")
    # The last of a repeated key counts: one picture a shard, four and two, all in one.
    commands = {
        size: runs.line("generate", data, tmp_path / f"out{size}", *STRICT, f"method={method}")
        for size in (1, 4, 64)
    }
    for size, command in commands.items():
        command[command.index("shard_images=1")] = f"shard_images={size}"
    runs.run(commands[4])
    runs.run(commands[64])
    killed = runs.start(commands[1])
    runs.wait_for(lambda: runs.parts(tmp_path / "out1"))
    killed.kill()
    killed.communicate()
    before = runs.parts(tmp_path / "out1")
    runs.run(runs.of("resume", tmp_path / "out1"))
    after = runs.parts(tmp_path / "out1")
    assert len(after) == runs.PICTURES
    assert before.items() <= after.items()
    first = answers(tmp_path / "out1")
    assert len(first) == 5 * 3 * runs.PICTURES
    assert answers(tmp_path / "out4") == answers(tmp_path / "out64") == first
    assert len({str(row["text"]) for row in first}) > len(first) / 2
