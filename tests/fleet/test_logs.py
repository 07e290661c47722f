import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmmsteer.fleet import logs
from lmmsteer.fleet.logs import Log, Logs
from lmmsteer.store import LocalStore
from tests.fleet.outputs import MIDNIGHT, at, done, log


def only(out: Path) -> Log:
    (found,) = Logs(LocalStore(out)).read()
    return found


def test_a_log_tells_workers_shards_errors_and_its_end(tmp_path: Path) -> None:
    log(
        tmp_path,
        at(0, "start", driver="ab", pid=7, host="h", cells=["m x a d"]),
        at(1, "worker", worker=1, device="H100"),
        at(1, "worker", worker=2, device="H100"),
        done(60, 55.5, device="H100"),
        at(61, "death", worker=2, error="gone", cause="died", parts=["part-00001.parquet"]),
        at(62, "refused", member="method=nope", error="no", mend="yes"),
        at(90, "end", code=1),
    )
    found = only(tmp_path)
    assert (found.verb, found.start["driver"], list(found.workers)) == ("generate", "ab", [1])
    assert [(d.cell, d.rows, d.seconds, d.device) for d in found.done] == [
        ("m x a d", 10, 55.5, "H100")
    ]
    assert [e["event"] for e in found.errors] == ["death"]
    assert [r["member"] for r in found.refused] == ["method=nope"]
    assert (found.first, found.last) == (MIDNIGHT, MIDNIGHT + 90)
    assert found.state(MIDNIGHT + 1e9) == "ended"


def test_an_older_log_without_these_keys_is_read_for_what_it_has(tmp_path: Path) -> None:
    log(
        tmp_path,
        at(0, "worker", worker=1, pid=7, host="h", device="H100"),
        at(9, "done", cell="m x a d", part="part-00000.parquet", worker=1, rows=10, seconds=4.0),
        name="generate-20260102T000000-000000001",
    )
    (shard,) = only(tmp_path).done
    assert (shard.model, shard.device, shard.rows, shard.seconds) == ("m", "H100", 10, 4.0)


def test_a_torn_last_line_is_left_out_and_read_once_it_is_whole(tmp_path: Path) -> None:
    whole = json.dumps(done(20, 5.0))
    path = log(tmp_path, done(10, 4.0), torn=whole[:30])
    reader = Logs(LocalStore(tmp_path))
    assert [d.seconds for d in reader.read()[0].done] == [4.0]
    with path.open("a") as file:
        file.write(whole[30:] + "\n")
    assert [d.seconds for d in reader.read()[0].done] == [4.0, 5.0]
    assert [d.seconds for d in reader.read()[0].done] == [4.0, 5.0]


def test_lines_that_are_no_events_hide_no_others(tmp_path: Path) -> None:
    path = log(tmp_path, done(10, 4.0))
    path.write_text("\x00\x00\n[1]\n" + path.read_text() + '{"time": "soon", "event": "done"}\n')
    assert [d.seconds for d in only(tmp_path).done] == [4.0]


def test_a_shard_whose_part_another_driver_made_first_says_nothing_of_the_speed(
    tmp_path: Path,
) -> None:
    log(tmp_path, done(1, 0.01, created=False), done(2, 4.0), done(3, 2.0, rows=0))
    assert [d.seconds for d in only(tmp_path).done] == [4.0]


def test_logs_of_other_verbs_are_left_out_and_the_newest_stands_last(tmp_path: Path) -> None:
    log(tmp_path, at(50, "start"), name="generate-b")
    log(tmp_path, at(90, "start"), name="resume-a")
    log(tmp_path, at(10, "start"), name="generate-c")
    log(tmp_path, at(99, "start"), name="fit-d")
    names = [found.path for found in Logs(LocalStore(tmp_path)).read()]
    assert names == ["logs/generate-c.jsonl", "logs/generate-b.jsonl", "logs/resume-a.jsonl"]


def test_a_driver_is_silent_after_three_times_its_longest_pause(tmp_path: Path) -> None:
    log(tmp_path, at(0, "start"), done(100, 99.0), done(140, 40.0), done(290, 150.0))
    found = only(tmp_path)
    assert found.patience == 450.0  # pauses after the first shard: 40 and 150 s
    assert found.state(MIDNIGHT + 290 + 450) == "running"
    assert found.state(MIDNIGHT + 290 + 451) == "silent"


def test_a_driver_that_loads_its_model_has_half_an_hour(tmp_path: Path) -> None:
    log(tmp_path, at(0, "start"), at(5, "worker", worker=1))
    found = only(tmp_path)
    assert found.state(MIDNIGHT + 5 + 1800) == "running"
    assert found.state(MIDNIGHT + 5 + 1801) == "silent"


@pytest.fixture
def driver() -> Iterator["subprocess.Popen[bytes]"]:
    """A process whose command line looks like a driver's."""
    command = [sys.executable, "-c", "input()", "lmmsteer"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        while not Path(f"/proc/{process.pid}/cmdline").read_bytes():
            time.sleep(0.001)  # A process that has just begun has no name yet.
        yield process


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_driver_on_this_machine_is_known_by_its_process(
    tmp_path: Path, driver: "subprocess.Popen[bytes]"
) -> None:
    log(tmp_path, at(0, "start", pid=driver.pid, host=socket.gethostname()), done(9, 4.0))
    found = only(tmp_path)
    assert found.state(MIDNIGHT + 1e6) == "running"
    driver.communicate(b"\n")
    assert found.state(MIDNIGHT + 9 + 31) == "gone"
    assert found.state(MIDNIGHT + 9 + 5) == "running"  # its last event is too young to doubt it
    log(tmp_path, at(0, "start", pid=driver.pid, host="another-host"), done(9, 4.0))
    assert only(tmp_path).state(MIDNIGHT + 9 + 31) == "running"


def test_a_log_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = log(tmp_path, done(1, 1.0))
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(LocalStore, "list", lambda self, prefix="": ["logs/generate-1.jsonl"])
    with pytest.raises(logs.LmmsteerError, match=r"generate-1\.jsonl cannot be read"):
        Logs(LocalStore(tmp_path)).read()
