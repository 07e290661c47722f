"""plan: every number by hand, nothing written, no model loaded, no Ray started."""

from __future__ import annotations

import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

import jobs.plan
from lmmsteer import manifest
from lmmsteer.fleet import cells
from lmmsteer.fleet.cells import CellRecord
from lmmsteer.fleet.plan import Plan
from lmmsteer.fleet.prospect import Prospect
from lmmsteer.models.files import digest
from lmmsteer.schema import Cell
from lmmsteer.store import LocalStore
from tests.conftest import Command
from tests.fleet.outputs import done, log, part
from tests.tiny import tiny_llava


@pytest.fixture
def line(photos: Path, tmp_path: Path) -> list[str]:
    """Three pictures, five prompts, three seeds: 45 rows in two shards of 30 and 15."""
    return [
        "dataset=folder",
        f"dataset.path={photos}",
        f"model.path={tiny_llava()}",
        "model.name=tiny",
        "device=cpu",
        "shard_images=2",
        "cluster.workers=2",
        f"out={tmp_path / 'out'}",
    ]


@pytest.fixture
def rates(tmp_path: Path) -> Path:
    """Another folder, where three shards of ten rows took 20, 30 and 40 s on a cpu."""
    folder = tmp_path / "rates"
    recorded(folder, "unsteered", 20.0, 30.0, 40.0)
    return folder


def recorded(folder: Path, method: str, *seconds: float) -> CellRecord:
    model = {"digest": digest(Path(tiny_llava()))}
    record = CellRecord(Cell("other name", method, "none", "d"), {}, {"model": model}, {})
    cells.record(LocalStore(folder), record, None)
    events = (done(9 + n, took, cell=str(record.cell)) for n, took in enumerate(seconds))
    log(folder, *events, name=f"generate-{method}")
    return record


def plan(command: Command, *line: str) -> dict[str, Any]:
    code, text, err = command("plan", *line, "json=true")
    assert (code, err) == (0, "")
    return json.loads(text)


def test_a_fresh_folder_is_planned_from_the_pictures_and_nothing_is_written(
    line: list[str], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # an import of it would fail
    before = sorted(tmp_path.rglob("*"))
    found = plan(command, *line)
    (cell,) = found["cells"]
    assert (cell["rows"], cell["rows_left"], cell["shards"], cell["shards_done"]) == (45, 45, 2, 0)
    assert cell["manifest"] is False
    assert (found["total"]["pictures"], found["total"]["rows_left"]) == (3, 45)
    assert found["files"] == {"manifests": 5, "responses": 2, "records": 1}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_data_set_is_looked_into_once_for_all_cells_of_a_sweep(
    line: list[str], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    whole = manifest.samples_of
    monkeypatch.setattr(manifest, "samples_of", lambda *a: asked.append(a) or whole(*a))
    found = plan(command, "-m", *line, "method=unsteered,random_direction", "sample.each=2")
    assert len(found["cells"]) == 2
    assert len(asked) == 1


def test_a_limit_is_counted_like_the_manifest_it_makes(
    line: list[str], tmp_path: Path, command: Command
) -> None:
    asked = [*line, "limit=2", "seeds=[4]"]
    expected = plan(command, *asked)["cells"][0]
    assert command("manifest", *asked)[0] == 0
    made = plan(command, *asked)["cells"][0]
    assert made["manifest"] is True
    for key in ("rows", "rows_left", "shards", "shards_left"):
        assert expected[key] == made[key]
    assert made["rows"] == 10


def test_hours_are_the_recorded_rate_over_the_workers(
    line: list[str], rates: Path, command: Command
) -> None:
    # 90 s for 30 rows, 45 rows: C = 135 s, m = 4.5, v = 200 / 2 = 100,
    # Var = 100 * 4.5 * (1 + 4.5 / 3) = 1125, t(2) = 4.303: half = 144.3 s, so low = 0.
    found = plan(command, *line, f"rates={rates}", "device.price=8")
    high = (135 + 4.303 * 1125**0.5) / 3600
    assert found["card_hours"] == pytest.approx(
        {"estimate": 135 / 3600, "low": 0.0, "high": high}, rel=1e-3
    )
    assert found["workers"] == 2
    assert found["hours"]["estimate"] == pytest.approx(135 / 7200, rel=1e-3)
    assert found["hours"]["high"] == pytest.approx(high / 2, rel=1e-3)
    assert found["price"]["estimate"] == pytest.approx(8 * 135 / 3600, rel=1e-3)
    (rate,) = [cell["rate"] for cell in found["cells"]]
    assert (rate["rows_per_second"], rate["recorded_shards"]) == (0.3333, 3)
    assert (rate["same_method"], rate["device"]) == (True, "cpu")
    assert rate["recorded_in"] == [str(rates)]


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that the verb has made."""
    found: list[Plan] = []

    def noting(plan: Plan, *rest: Any) -> Prospect:
        found.append(plan)
        return Prospect(plan, *rest)

    monkeypatch.setattr(jobs.plan, "Prospect", noting)
    return found


def test_only_what_is_left_takes_time_and_room(
    line: list[str], rates: Path, tmp_path: Path, command: Command, plans: list[Plan]
) -> None:
    plan(command, *line)
    plans[0].begin()
    made = part(tmp_path / "out", plans[0].jobs[0].record, 0, rows=30)
    found = plan(command, *line, f"rates={rates}")
    (cell,) = found["cells"]
    assert (cell["shards_done"], cell["shards_left"], cell["rows_left"]) == (1, 1, 15)
    assert found["card_hours"]["estimate"] == pytest.approx(45 / 3600, rel=1e-3)
    assert found["files"] == {"manifests": 0, "responses": 1, "records": 0}
    half = made.stat().st_size / 2  # 15 rows of the 30 that are there
    assert found["bytes"]["manifests"] == 0
    assert found["bytes"]["responses"] == found["bytes"]["total"] == pytest.approx(half, abs=1)
    part(tmp_path / "out", plans[0].jobs[0].record, 1, rows=15)
    found = plan(command, *line)
    assert (found["card_hours"]["estimate"], found["hours"]["estimate"]) == (0.0, 0.0)
    assert (found["card_hours_unknown"], found["total"]["rows_left"]) == ([], 0)


def test_an_unknown_rate_is_said_with_the_users_own_command_that_makes_it_known(
    line: list[str], tmp_path: Path, command: Command
) -> None:
    code, text, _ = command("plan", *line, "sampling.max_new_tokens=4")
    assert code == 0
    out = tmp_path / "out"
    kept = " ".join([*line[:-1], "sampling.max_new_tokens=4"])
    assert f"  lmmsteer generate {kept} limit=64 out={out}-try" in text
    assert f"  lmmsteer plan {kept} rates={out}-try out={out}" in text
    found = plan(command, *line)
    assert found["card_hours_unknown"] == ["tiny unsteered none folder"]
    assert (found["card_hours"]["estimate"], found["cells"][0]["card_hours"]) == (0.0, None)
    assert found["bytes"]["responses_unknown_cells"] == 1


def test_the_rate_of_another_method_is_taken_and_said(
    line: list[str], rates: Path, command: Command
) -> None:
    more = ("method=random_direction", f"rates={rates}")
    assert plan(command, *line, *more)["cells"][0]["rate"]["same_method"] is False
    text = command("plan", *line, *more)[1]
    assert "0.333 rows/s on cpu, from 3 shards of OTHER METHODS of the model" in text


def test_a_member_that_waits_for_its_artifact_counts_with_its_rows_and_hours(
    line: list[str], rates: Path, command: Command
) -> None:
    more = ["-m", *line, "method=unsteered,steered_dataset", "attribute=age", f"rates={rates}"]
    found = plan(command, *more)
    (waiting,) = found["refused"]
    assert (waiting["missing_artifact"], waiting["rows_left"]) == (True, 45)
    assert "lmmsteer fit method=steered_dataset attribute=age" in waiting["mend"]
    assert (found["total"]["rows_left"], found["total"]["waiting_for_artifacts"]) == (90, 1)
    assert found["card_hours"]["estimate"] == pytest.approx(270 / 3600, rel=1e-3)
    # Both at one recorded rate: 90 rows, m = 9, Var = 100 * 9 * (1 + 9 / 3) = 3600.
    assert found["card_hours"]["high"] == pytest.approx((270 + 4.303 * 60) / 3600, rel=1e-3)
    text = command("plan", *more)[1]
    assert "1 cell and 1 member whose artifact is missing" in text
    assert "artifact missing" in text


def test_several_folders_of_rates_need_no_quotes_and_none_counts_twice(
    line: list[str], rates: Path, tmp_path: Path, command: Command
) -> None:
    other = tmp_path / "a=b"
    recorded(other, "unsteered", 60.0)
    found = plan(command, "-m", *line, "seeds=[0],[1]", f"rates={rates},{other},{rates}")
    assert len(found["cells"]) == 2
    assert {cell["rate"]["recorded_shards"] for cell in found["cells"]} == {4}


def test_rates_of_a_folder_without_a_run_are_refused(
    line: list[str], tmp_path: Path, command: Command
) -> None:
    code, _, err = command("plan", *line, f"rates={tmp_path / 'nothing'}")
    assert (code, "no shard that was answered is recorded there" in err) == (2, True)


def test_of_a_cluster_elsewhere_nobody_is_asked_how_many_cards_it_has(
    line: list[str], rates: Path, command: Command
) -> None:
    more = ["cluster.address=ray://head:10001", "cluster.workers=null", f"rates={rates}"]
    found = plan(command, *line, *more)
    assert (found["workers"], found["hours"]) == (None, None)
    assert found["card_hours"]["estimate"] == pytest.approx(135 / 3600, rel=1e-3)
    assert "cluster.workers=N" in command("plan", *line, *more)[1]


def test_what_does_not_fit_on_the_disk_is_said(
    line: list[str], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 0, 10))
    found = plan(command, *line)
    assert (found["bytes"]["free"], found["bytes"]["fits"]) == (10, False)
    assert "NOT ENOUGH" in command("plan", *line)[1]


def test_a_plan_of_many_cells_stands_in_columns(
    line: list[str], rates: Path, command: Command
) -> None:
    more = ["-m", *line, "method=unsteered,random_direction", f"rates={rates}"]
    text = command("plan", *more)[1].splitlines()
    assert text[:2] == [
        "tiny unsteered none folder:         0 of 2 shards done,  45 of 45 rows left"
        "  0.0375 card-hours  manifest not made yet",
        "tiny random_direction none folder:  0 of 2 shards done,  45 of 45 rows left"
        "  0.0375 card-hours  manifest not made yet",
    ]
    assert "2 cells: 4 of 4 shards, 90 of 90 rows left" in text


def test_nothing_that_can_run_is_refused_with_2(line: list[str], command: Command) -> None:
    code, text, _ = command("plan", *line, "sampling.top_p=0")
    assert (code, "sampling.top_p=0.0 is out of range." in text) == (2, True)
