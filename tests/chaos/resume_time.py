"""`python -m tests.chaos.resume_time [times]`: from a driver's death to the next new shard.

The real command on the demo LMM: kill -9 in the middle of a run, the same command at once again.
What the dead driver's workers still commit does not count: the second driver's log must name it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL

from tests.chaos import check

ENOUGH = 3  # Parts that are there when the driver is killed.


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.resume_time", description=__doc__)
    parser.add_argument("times", type=int, nargs="?", default=3)
    took = []
    for _ in range(parser.parse_args().times):
        with tempfile.TemporaryDirectory() as folder:
            took.append(once(Path(folder)))
        print(f"{took[-1]:.1f} s", flush=True)
    print(f"median {statistics.median(took):.1f} s of {len(took)}")


def once(folder: Path) -> float:
    """Seconds from the kill until the second driver's workers have made a part."""
    out = folder / "out"
    command = [sys.executable, "-m", "jobs", "generate", "method=unsteered", "dataset=demo"]
    command += ["shard_images=8", f"out={out}"]
    driver = start(command)
    wait(driver, lambda: len(check.parts(out)) >= ENOUGH)
    before = logs(out)
    driver.send_signal(SIGKILL)
    killed = time.monotonic()
    driver.wait()
    driver = start(command)
    wait(driver, lambda: any(made(log) for log in logs(out) - before))
    seconds = time.monotonic() - killed
    driver.terminate()
    driver.wait()
    return seconds


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def logs(out: Path) -> set[Path]:
    return set((out / "logs").glob("generate-*.jsonl"))


def made(log: Path) -> bool:
    """Whether a driver's log names a part that its workers have made; the last line may be torn."""
    whole = log.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    return any(event["event"] == "done" and event["created"] for event in map(json.loads, whole))


def wait(driver: subprocess.Popen[bytes], there: Callable[[], bool]) -> None:
    while not there():
        if driver.poll() is not None:
            raise RuntimeError(f"the command ended by itself, with {driver.returncode}")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
