"""A sample of `make chaos`: real processes, a real cluster, killed, stopped and poisoned."""

from __future__ import annotations

import subprocess
import sys


def test_whatever_dies_or_sleeps_the_answers_are_the_same_bytes() -> None:
    kinds = ("storm", "poison")
    command = [sys.executable, "-m", "tests.chaos", str(len(kinds)), "2", "--kind", *kinds]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(kinds)} of {len(kinds)} schedules kept every promise" in done.stdout
