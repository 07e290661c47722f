"""`python -m tests.chaos.resume_time [times]`: from a driver's death to the next new shard.

The real command on the demo LMM: kill -9 in the middle of a run, the same command at once again.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
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
    """Seconds from the kill until a part is there that was not."""
    out = folder / "out"
    command = [sys.executable, "-m", "jobs", "generate", "method=unsteered", "dataset=demo"]
    command += ["shard_images=8", f"out={out}"]
    driver = start(command)
    wait(driver, out, ENOUGH)
    driver.send_signal(SIGKILL)
    killed = time.monotonic()
    driver.wait()
    there = len(check.parts(out))
    driver = start(command)
    wait(driver, out, there + 1)
    seconds = time.monotonic() - killed
    driver.terminate()
    driver.wait()
    return seconds


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait(driver: subprocess.Popen[bytes], out: Path, parts: int) -> None:
    while len(check.parts(out)) < parts:
        if driver.poll() is not None:
            raise RuntimeError(f"the command ended by itself, with {driver.returncode}")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
