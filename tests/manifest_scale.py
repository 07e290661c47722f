"""Many small pictures to a manifest, timed; killed and resumed to the same files.

    python -m tests.manifest_scale PICTURES FOLDER     (200,000: 2 GB of disk, some minutes)

Prints pictures a second, peak memory of all processes and bytes, and compares the two manifests.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

KILLS = (0.1, 0.4, 0.7)  # Shares of the parts at which the second run is killed.


def main(count: int, folder: Path) -> None:
    source = folder / "source"
    if not (source / "metadata.csv").exists():
        write(source, count)
    whole, killed = folder / "whole", folder / "killed"
    for out in (whole, killed):
        shutil.rmtree(out, ignore_errors=True)
    for name, keys in (("made", ["check=false"]), ("looked at", [])):
        seconds, peak = timed(command(source, whole, *keys))
        print(f"{name}: {count / seconds:.0f} pictures/s ({seconds:.0f} s), peak {peak:.2f} GB")
    parts = len(list((whole / "manifest").rglob("rows/part-*")))
    for share in KILLS:
        kill_at(command(source, killed, "check=false"), killed, round(share * parts))
    timed(command(source, killed, "check=false"))
    same = digests(whole / "manifest") == digests(killed / "manifest")
    size = sum(path.stat().st_size for path in (whole / "manifest").rglob("*.parquet"))
    given = sum(path.stat().st_size for path in source.rglob("*.jpg"))
    print(f"{parts} parts twice, {size / 1e6:.0f} MB for pictures of {given / 1e6:.0f} MB")
    print(f"killed {len(KILLS)} times and resumed: {'the same files' if same else 'OTHER FILES'}")
    if not same:
        raise SystemExit(1)


def write(source: Path, count: int) -> None:
    """JPEG pictures of 64 x 64 pixels with labels, a thousand in a folder."""
    chance = random.Random(0)
    rows = []
    for number in range(count):
        name = f"{number // 1000:04d}/{number:07d}.jpg"
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (64, 64), tuple(chance.randrange(256) for _ in range(3)))
        image.paste((number % 256, number // 256 % 256, number >> 16), (8, 8, 40, 56))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG")
        path.write_bytes(buffer.getvalue())
        rows.append((name, ("man", "woman")[number % 2], f"job {number % 50}"))
    with (source / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(("file_name", "gender", "occupation"))
        lines.writerows(rows)


def command(source: Path, out: Path, *more: str) -> list[str]:
    words = ["dataset=folder", f"dataset.path={source}", "shard_images=64", f"out={out}", *more]
    return [sys.executable, "-m", "jobs", "manifest", *words]


def timed(line: list[str]) -> tuple[float, float]:
    """Seconds, and the most memory in GB that the command and its children had together."""
    start, peak, done = time.monotonic(), 0, threading.Event()
    process = subprocess.Popen(line)

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, sum(map(resident, tree(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code != 0:
        raise SystemExit(f"{' '.join(line)} ended with {code}.")
    return time.monotonic() - start, peak / 1e9


def kill_at(line: list[str], out: Path, parts: int) -> None:
    """Kill the command when it has written so many parts of rows."""
    process = subprocess.Popen(line, start_new_session=True)
    while process.poll() is None and len(list(out.rglob("rows/part-*.parquet"))) < parts:
        time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tree(root: int) -> Iterator[int]:
    """A process and all below it."""
    yield root
    try:
        for task in Path(f"/proc/{root}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))
    except OSError:
        return


def resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGESIZE"
        )
    except (OSError, IndexError):
        return 0


def digests(folder: Path) -> dict[str, str]:
    """Of every file; what a killed writer left half written is swept by a run an hour later."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]).resolve())
