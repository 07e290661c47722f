"""The promises of a run, with real processes: nothing lost, doubled or altered, whoever dies."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.fleet.runs import (
    PICTURES,
    events,
    kill,
    line,
    of,
    parts,
    photos,
    run,
    start,
    wait_for,
)

CELLS = ("-m", "method=unsteered,random_direction")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two cells by one worker, undisturbed."""
    out = tmp_path_factory.mktemp("runs") / "out"
    run(line("generate", data, out, *CELLS, "cluster.workers=1"))
    return out


def test_a_sweep_loads_a_models_weights_once_for_all_its_cells(undisturbed: Path) -> None:
    assert len(parts(undisturbed)) == 2 * PICTURES
    assert len(events(undisturbed, "worker")) == 1
    assert [event["model"] for event in events(undisturbed, "load")] == ["tiny"]


def test_rows_in_are_rows_out(undisturbed: Path) -> None:
    rows = pq.read_table(undisturbed / "manifest/dataset=folder/rows").column("row_id").to_pylist()
    assert len(rows) == len(set(rows)) == PICTURES * 15
    for cell in (undisturbed / "responses").rglob("dataset=folder"):
        table = pq.ParquetDataset(sorted(cell.glob("part-*.parquet"))).read()
        assert Counter(table.column("row_id").to_pylist()) == Counter(rows)


def test_nothing_is_written_beside_what_the_contract_names(undisturbed: Path) -> None:
    assert {path.name for path in undisturbed.iterdir()} == {"manifest", "responses", "logs"}
    assert not list(undisturbed.rglob(".*"))


def test_a_killed_worker_is_replaced_and_a_killed_driver_resumed_to_the_same_bytes(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    driver = start(line("generate", data, out, *CELLS, "cluster.workers=2"))
    wait_for(lambda: parts(out))
    kill(events(out, "worker")[0]["pid"])
    wait_for(lambda: events(out, "death") or driver.poll() is not None)
    kill(driver.pid)
    driver.communicate()
    assert 0 < len(parts(out)) < 2 * PICTURES
    done, loaded = dict(parts(out)), len(events(out, "load"))
    started = len(events(out, "worker"))
    run(line("generate", data, out, *CELLS, "cluster.workers=3"))
    assert parts(out) == parts(undisturbed)  # The number of workers changes no byte either.
    assert len(events(out, "worker")) == started + 3
    loads = Counter(event["worker"] for event in events(out, "load")[loaded:])
    assert set(loads.values()) == {1}
    assert done.items() <= parts(out).items()
    assert run(of("status", out)).stdout.count("complete, 6 of 6 shards") == 2


def test_a_run_whose_worker_dies_ends_well_by_itself(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    driver = start(line("generate", data, out, *CELLS, "cluster.workers=1"))
    wait_for(lambda: parts(out))
    kill(events(out, "worker")[0]["pid"])
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, err
    assert len(events(out, "death")) == 1
    assert len(events(out, "worker")) == 2
    assert parts(out) == parts(undisturbed)


def test_a_terminated_run_says_so_in_a_sentence_and_leaves_nothing_half_done(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    driver = start(line("generate", data, out, *CELLS, "cluster.workers=1"))
    wait_for(lambda: parts(out))
    driver.terminate()
    _, err = driver.communicate(timeout=30)
    assert driver.returncode == 1
    assert "The same command again does what is missing." in err
    assert "SIGTERM" not in err
    assert not list(out.rglob(".*"))


def test_resume_needs_the_output_folder_alone(undisturbed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "moved")
    for path in sorted((out / "responses").rglob("part-*.parquet"))[::4]:
        path.unlink()
    assert run(of("status", out), expect=1)
    run(of("resume", out))
    assert parts(out) == parts(undisturbed)


def test_a_broken_picture_is_rows_with_a_reason_and_its_neighbours_do_not_notice(
    data: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in data.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "2.png").write_bytes((data / "2.png").read_bytes()[:900])
    shards = "shard_images=6"  # The broken one and its neighbours are of one shard.
    run(line("generate", data, whole, "cluster.workers=1", shards))
    done = run(line("generate", broken, out, "cluster.workers=1", shards), expect=1)
    assert "15 picture_broken" in done.stdout.splitlines()[-1]
    expected = _responses(whole)
    found = _responses(out)
    assert found.keys() == expected.keys()
    for row in found.values():
        if row["image_id"] == "2.png":
            assert row["text"] is None
            assert row["error_kind"] == "picture_broken"
            assert row["error"]
        else:
            assert row == expected[row["row_id"]]
    within = run(line("generate", broken, out, "cluster.workers=1", shards, "max_failed_share=0.2"))
    assert "15 picture_broken" in within.stdout
    _retry_moves_the_shard_aside(out)


def _responses(out: Path) -> dict[str, dict[str, Any]]:
    """The unsteered cell's rows, by id."""
    cell = out / "responses/method=unsteered"
    table = pq.ParquetDataset(sorted(cell.rglob("part-*.parquet"))).read()
    return {row["row_id"]: row for row in table.to_pylist()}


def _retry_moves_the_shard_aside(out: Path) -> None:
    before = parts(out)
    run([*of("resume", out), "retry=[nonfinite]"], expect=1)
    assert not (out / "trash").exists()
    run([*of("resume", out), "retry=true"], expect=1)
    assert len(list((out / "trash").rglob("part-*.parquet"))) == 1
    assert parts(out) == before


def test_two_drivers_on_one_folder_both_end_well_with_one_part_for_each_shard(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = line("generate", data, out, *CELLS, "cluster.workers=1")
    drivers = [start(command) for _ in range(2)]
    for driver in drivers:
        _, err = driver.communicate(timeout=200)
        assert driver.returncode == 0, err
    assert parts(out) == parts(undisturbed)
    assert not list(out.rglob(".*"))
