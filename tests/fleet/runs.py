"""Runs of the command line, to be compared, and as processes of their own, to be killed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from tests.tiny import photographs, tiny_llava

PICTURES = 6


def photos(folder: Path) -> Path:
    """Six small pictures cut from real photographs."""
    folder.mkdir(parents=True)
    for number in range(PICTURES):
        image = list(photographs().values())[number % 3]
        image.crop((30 * number, 0, 30 * number + 100, 90)).save(folder / f"{number}.png")
    return folder


def line(verb: str, data: Path, out: Path, *more: str) -> list[str]:
    """A command that answers six shards of one picture each."""
    return [
        sys.executable,
        "-m",
        "jobs",
        verb,
        *(m for m in more if m == "-m"),
        "dataset=folder",
        f"dataset.path={data}",
        f"model.path={tiny_llava()}",
        "model.name=tiny",
        "sampling.max_new_tokens=24",
        "shard_images=1",
        f"out={out}",
        *(m for m in more if m != "-m"),
    ]


def of(verb: str, out: Path) -> list[str]:
    """A verb that needs the output folder alone."""
    return [sys.executable, "-m", "jobs", verb, f"out={out}"]


def run(command: list[str], expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run to the end, in this process; the exit code must be the one expected."""
    from jobs.__main__ import main

    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(command[3:])
    finally:
        sys.argv = argv
    done = subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())
    assert code == expect, f"exit {code}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    return done


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start in a process group of its own."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def wait_for(what: Callable[[], Any], seconds: float = 300) -> Any:
    """The first true value of `what`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


def parts(out: Path) -> dict[str, str]:
    """sha256 of every response part, by its path below responses."""
    root = out / "responses"
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("part-*.parquet"))
    }


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind in all logs."""
    found = []
    for path in sorted((out / "logs").glob("*.jsonl")):
        for text in path.read_text().splitlines():
            try:
                event = json.loads(text)
            except ValueError:
                continue
            if event["event"] == kind:
                found.append(event)
    return found


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
