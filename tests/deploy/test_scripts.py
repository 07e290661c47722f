"""The shell scripts: their form, and the one that tells a run to end."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.crd import DEPLOY
from tests.fleet.runs import start, wait_for

DRIVER = str(DEPLOY / "driver.sh")
# Ends with 1 a moment after SIGTERM, and at once, with 9, at a second one: as a run does.
RUN = """
import signal, sys, time
told = 0
def heed(*_):
    global told
    told += 1
signal.signal(signal.SIGTERM, heed)
print("up", flush=True)
while not told:
    time.sleep(0.01)
for _ in range(100):
    time.sleep(0.01)
    if told > 1:
        sys.exit(9)
sys.exit(1)
"""


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="apt-get install shellcheck")
def test_shellcheck_has_nothing_to_say() -> None:
    scripts = sorted(DEPLOY.glob("*.sh"))
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    monkeypatch.setenv("LMMSTEER_DRIVER_FILE", str(tmp_path / "driver"))
    process = start([DRIVER, "run", sys.executable, "-c", RUN])
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    wait_for((tmp_path / "driver").exists)
    yield process
    process.communicate(timeout=20)


def stop() -> None:
    assert subprocess.run([DRIVER, "stop"], timeout=20).returncode == 0


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_code_of_a_command_is_that_of_the_script(code: int) -> None:
    command = [DRIVER, "run", sys.executable, "-c", f"raise SystemExit({code})"]
    assert subprocess.run(command, timeout=20).returncode == code


def test_a_run_is_told_once_however_often_it_is_stopped(run: subprocess.Popen[str]) -> None:
    began = time.monotonic()
    others = [subprocess.Popen([DRIVER, "stop"]) for _ in range(3)]
    stop()
    assert time.monotonic() - began > 0.9  # It has waited for the end.
    assert [other.wait(20) for other in others] == [0, 0, 0]
    assert run.wait(20) == 1


def test_a_run_that_ray_has_told_is_not_told_again(run: subprocess.Popen[str]) -> None:
    """`ray job stop` signals every process of a job; a pod that goes then calls `stop`."""
    import psutil

    for process in [psutil.Process(run.pid), *psutil.Process(run.pid).children()]:
        process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    stop()
    assert run.wait(20) == 1


def test_where_no_run_is_nothing_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMMSTEER_DRIVER_FILE", str(tmp_path / "driver"))
    stop()
    assert list(tmp_path.iterdir()) == []
