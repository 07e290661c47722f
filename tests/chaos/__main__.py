"""`python -m tests.chaos N [first_seed]`: N schedules, each of one seed; exit 1 if a promise broke.

A line for each schedule. A failed one prints what was done and how to run it again, and its folder
stays. Several lanes, each with a Ray cluster of its own, run side by side.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.chaos import disks
from tests.chaos.cluster import Cluster
from tests.chaos.schedules import KINDS, Outcome, Stage, kind_of


def main() -> int:
    asked = arguments()
    if asked.lane:
        return lane(asked)
    folder = Path(asked.folder or tempfile.mkdtemp(prefix="chaos-"))
    start = time.monotonic()
    lanes = [start_lane(asked, folder, number) for number in range(min(asked.lanes, asked.count))]
    codes = [process.wait() for process in lanes]
    outcomes = [o for number in range(len(lanes)) for o in read(folder / f"lane{number}.jsonl")]
    summary(outcomes, asked.count, time.monotonic() - start)
    good = len(outcomes) == asked.count and not any(o.wrong for o in outcomes) and not any(codes)
    if good and not asked.folder:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if good else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("count", type=int, help="schedules")
    parser.add_argument("first", type=int, nargs="?", default=0, help="the first seed")
    parser.add_argument("--kind", nargs="+", choices=sorted(KINDS), help="these, one by one")
    parser.add_argument("--lanes", type=int, default=2, help="clusters side by side")
    parser.add_argument("--folder", help="where to work; kept")
    parser.add_argument("--lane", help=argparse.SUPPRESS)
    return parser.parse_args()


def start_lane(asked: argparse.Namespace, folder: Path, number: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.chaos", str(asked.count), str(asked.first)]
    command += ["--lane", f"{number}/{min(asked.lanes, asked.count)}", "--folder", str(folder)]
    return subprocess.Popen([*command, *(["--kind", *asked.kind] if asked.kind else [])])


def lane(asked: argparse.Namespace) -> int:
    """Every so-many-th schedule, on a cluster of its own."""
    number, of = map(int, asked.lane.split("/"))
    folder = Path(asked.folder) / f"lane{number}"
    folder.mkdir(parents=True, exist_ok=True)
    mounts = disks.may_mount(folder)
    if not mounts:
        print("No right to mount here: full_disk, read_only and moved_away are left out.")
    cluster = Cluster()
    stage = Stage(folder, cluster)
    try:
        for seed in range(asked.first + number, asked.first + asked.count, of):
            kinds = asked.kind or [kind_of(seed, mounts)]
            outcome = stage.run(seed, kinds[(seed - asked.first) % len(kinds)])
            with folder.with_suffix(".jsonl").open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
            tell(outcome)
    finally:
        cluster.stop()
    return 0


def tell(outcome: Outcome) -> None:
    state = "broken" if outcome.wrong else "kept"
    lines = [f"{outcome.seed:6} {outcome.kind:24} {outcome.seconds:6.1f} s  {state}"]
    if outcome.wrong:
        lines += [f"       {line}" for line in outcome.done]
        lines += [outcome.wrong]
        lines += [f"again: python -m tests.chaos 1 {outcome.seed} --kind {outcome.kind}"]
    print("\n".join(lines), flush=True)


def read(path: Path) -> list[Outcome]:
    """What a lane has told; nothing where it never came to its first schedule."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Outcome(**json.loads(line)) for line in lines]


def summary(outcomes: list[Outcome], asked: int, seconds: float) -> None:
    kinds = Counter(outcome.kind for outcome in outcomes)
    broken = sorted(outcome.seed for outcome in outcomes if outcome.wrong)
    print(", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    kept = len(outcomes) - len(broken)
    print(f"{kept} of {asked} schedules kept every promise, {seconds / 60:.1f} min", end="")
    print(f"; broken: {broken}" if broken else "")


if __name__ == "__main__":
    sys.exit(main())
