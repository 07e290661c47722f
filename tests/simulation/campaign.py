"""Schedules by the thousand, what they hit, and the shortest form of one that fails."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from tests.simulation.process import Violation
from tests.simulation.projects import SHAPES
from tests.simulation.schedule import Schedule, draw
from tests.simulation.stand_ins import installed
from tests.simulation.world import World

AT_ONCE = 250


@dataclass
class Tally:
    """Of some schedules: how many, what failed (by seed), and which points were hit how often."""

    schedules: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    hits: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    cpu: float = 0.0

    def add(self, other: Tally) -> None:
        self.schedules += other.schedules
        self.failed |= other.failed
        self.hits += other.hits
        self.points += other.points
        self.cpu += other.cpu


def failure(schedule: Schedule, tally: Tally | None = None) -> str | None:
    """What promise a schedule breaks; None where it breaks none."""
    world = World(schedule)
    try:
        world.play()
    except Violation as violation:
        return str(violation)
    except Exception as error:
        return f"the simulation itself: {type(error).__name__}: {error}"
    finally:
        if tally is not None:
            tally.hits.update(world.hits)
            tally.points.update(world.counts)
    return None


def run(first: int, count: int) -> Tally:
    """So many schedules, from a seed on."""
    tally = Tally()
    began = time.process_time()
    with installed():
        for seed in range(first, first + count):
            why = failure(draw(seed, len(SHAPES)), tally)
            tally.schedules += 1
            if why is not None:
                tally.failed[seed] = why
    tally.cpu = time.process_time() - began
    return tally


def shorter(schedule: Schedule, why: str) -> Schedule:
    """The same failure with fewer faults and commands, as far as leaving out one at a time goes."""
    going = True
    while going:
        going = False
        for smaller in _smaller(schedule):
            found = failure(smaller)
            if found is not None and found[:3] == why[:3]:
                schedule, going = smaller, True
                break
    return schedule


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    for fault in schedule.faults:
        yield schedule.without(fault)
    yield from schedule.simpler()


def replay(seed: int, short: bool = True) -> int:
    """One schedule with its trace, and its shortest form where it fails."""
    schedule = draw(seed, len(SHAPES))
    with installed():
        why = failure(schedule)
        if why is not None and short:
            schedule = shorter(schedule, why)
        world = World(schedule, verbose=True)
        try:
            world.play()
        except Violation as violation:
            why = str(violation)
    print(schedule, *world.trace, why or "no promise broken", sep="\n")
    return 1 if why else 0


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == "-v":
        return replay(int(arguments[1]))
    numbers = [int(a) for a in arguments]
    count, first = numbers[0], numbers[1] if len(numbers) > 1 else 0
    processes = numbers[2] if len(numbers) > 2 else len(os.sched_getaffinity(0))
    began = time.monotonic()
    tally = Tally()
    for part in _parts(first, count, processes):
        tally.add(part)
        for seed, why in part.failed.items():
            print(f"seed {seed}: {why}\n    python -m tests.simulation -v {seed}", flush=True)
        if sys.stderr.isatty():
            print(f"\r{tally.schedules} of {count}", end="", file=sys.stderr)
    _tell(tally, first, count, time.monotonic() - began)
    return 1 if tally.failed else 0


def _parts(first: int, count: int, processes: int) -> Iterator[Tally]:
    starts = range(first, first + count, AT_ONCE)
    counts = [min(AT_ONCE, first + count - start) for start in starts]
    if processes == 1:
        yield from map(run, starts, counts)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(run, starts, counts)


def _tell(tally: Tally, first: int, count: int, seconds: float) -> None:
    print(
        f"{tally.schedules} schedules, seeds {first} to {first + count - 1}, in {seconds:.0f} s"
        f" ({tally.cpu:.0f} s of CPU): {len(tally.failed)} broke a promise"
    )
    for step in sorted(tally.points):
        done = Counter[str]()
        for (at, _, do), number in tally.hits.items():
            if at == step:
                done[do] += number
        faults = ", ".join(f"{do} {number}" for do, number in sorted(done.items()))
        print(f"  {step}: {tally.points[step]} points; {faults or 'no faults'}")
    timed = Counter({do: n for (at, _, do), n in tally.hits.items() if at == "time"})
    print("  by the clock: " + ", ".join(f"{do} {n}" for do, n in sorted(timed.items())))
