"""A manifest of many rows, written, killed, resumed, planned, scanned and verified on one machine.

    python -m tests.scale ROWS FOLDER        (57,000,000 rows take 3 GB of disk and half an hour)

Prints the figures of every phase, and leaves them in FOLDER/figures.json.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lmmsteer import manifest
from tests.scale import phases, world

SHARD_IMAGES = 63


def main(arguments: list[str]) -> int:
    if len(arguments) == 3:
        phase, folder, pictures = arguments
        identity = world.asked(int(pictures), SHARD_IMAGES)
        print(json.dumps(phases.run(phase, Path(folder), identity)))
        return 0
    rows, folder = int(arguments[0]), Path(arguments[1])
    pictures = -(-rows // world.ROWS_A_PICTURE)
    figures: dict[str, Any] = {}
    _killed("build", folder, pictures, parts=pictures // SHARD_IMAGES // 10)
    for phase in phases.PHASES:
        figures[phase] = _measured(phase, folder, pictures)
        print(phase, json.dumps(figures[phase], indent=1), flush=True)
    figures["disk"] = {"gb": round(_size(folder) / 1e9, 2)}
    (folder / "figures.json").write_text(json.dumps(figures, indent=1))
    shutil.rmtree(folder / "commit")
    return 0


def _command(phase: str, folder: Path, pictures: int) -> list[str]:
    return [sys.executable, "-m", "tests.scale", phase, str(folder), str(pictures)]


def _killed(phase: str, folder: Path, pictures: int, parts: int) -> None:
    """Begin a phase and kill it once so many parts are there, as a machine is taken away."""
    process = subprocess.Popen(_command(phase, folder, pictures), stdout=subprocess.DEVNULL)
    rows = folder / manifest.folder(world.NAME) / "rows"
    while process.poll() is None and not (rows.is_dir() and len(os.listdir(rows)) >= parts):
        time.sleep(0.2)
    process.kill()
    process.wait()


def _measured(phase: str, folder: Path, pictures: int) -> dict[str, Any]:
    done = subprocess.run(_command(phase, folder, pictures), stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _size(folder: Path) -> int:
    """Bytes of disk below a folder, whole blocks."""
    blocks = 0
    for below, _, names in os.walk(folder):
        blocks += sum(os.lstat(os.path.join(below, name)).st_blocks for name in names)
    return 512 * blocks


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
