"""`python -m tests.chaos.load WORKERS`: what so many workers cost the driver's process.

The production driver, scheduler and journal over real Ray calls. A few actors play all the workers:
each takes ten seconds for a shard, and one shard after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from lmmsteer.config import ClusterConfig, DeviceConfig
from lmmsteer.fleet import cluster as clusters
from lmmsteer.fleet.driver import Driver
from lmmsteer.fleet.journal import Journal
from lmmsteer.fleet.progress import Display
from lmmsteer.fleet.rays import RayFleet, _Actor
from lmmsteer.fleet.scheduler import Scheduler
from lmmsteer.fleet.task import ModelSpec, Report
from lmmsteer.fleet.work import Item, lots
from lmmsteer.store import LocalStore
from tests.chaos import world
from tests.chaos.driver import Core

SHARD_SECONDS = 10.0
ROWS = 240  # 16 pictures, 15 questions each.
WARM, MEASURED = 30.0, 60.0
STAGES = ("slots", "tokens", "steps", "vision", "prefix", "suffix", "decode")
ENGINE: dict[str, Any] = dict.fromkeys(STAGES, 1234.5)


class Host:
    """Many workers in one process: what each is asked, one thing at a time."""

    def __init__(self) -> None:
        self.busy: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.steps = 0

    async def describe(self, number: int) -> dict[str, Any]:
        return {"device": "none", "host": f"host{number}"}

    async def pulse(self, number: int) -> tuple[str, int]:
        self.steps += 1
        return "generate", self.steps

    async def load(self, number: int, spec: ModelSpec) -> Report:
        return Report()

    async def run(self, number: int, *shard: Any) -> Report:
        async with self.busy[number]:
            await asyncio.sleep(SHARD_SECONDS)
        return Report(ROWS, {}, SHARD_SECONDS, 30 * ROWS, engine=ENGINE)


class Crowd(RayFleet):
    """The production fleet, but that a worker is a number in one of a few actors."""

    def __init__(self, ray: Any, hosts: int) -> None:
        super().__init__(ray, Host, Core(), 1, ())  # type: ignore[arg-type]
        kind = ray.remote(max_concurrency=10_000, concurrency_groups={"control": 1000})(Host)
        self.hosts = [kind.remote() for _ in range(hosts)]

    def hire(self, number: int) -> None:
        handle = Numbered(self.hosts[number % len(self.hosts)], number)
        self._actors[number] = _Actor(handle)
        self._follow(number, handle.describe.remote(), lambda facts: self._up(number, facts))


class Numbered:
    """An actor's handle that says with every call for which worker it is."""

    def __init__(self, called: Any, number: int) -> None:
        self._called, self._number = called, number

    def __getattr__(self, name: str) -> Numbered:
        return Numbered(getattr(self._called, name), self._number)

    def options(self, **given: Any) -> Numbered:
        return Numbered(self._called.options(**given), self._number)

    def remote(self, *arguments: Any) -> Any:
        return self._called.remote(self._number, *arguments)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.load", description=__doc__)
    parser.add_argument("workers", type=int, nargs="?", default=500)
    parser.add_argument("--hosts", type=int, default=2, help="actors that play the workers")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), asked.workers, asked.hosts)


def measure(folder: Path, workers: int, hosts: int) -> None:
    """Everything as in a run; the process's CPU time is read in the middle of it."""
    journal = Journal(LocalStore(folder), "generate")
    task = world.task_of(str(folder), *world.CELLS[0])
    digests = ("0" * 64, "0" * 64)
    shards = int(workers * (WARM + MEASURED + 60) / SHARD_SECONDS)
    items = [Item(task, f"part-{n:05d}.parquet", ROWS, "cell", digests) for n in range(shards)]
    display = Display(ROWS * shards, "load", enabled=False)

    def on_report(item: Item, report: Report) -> None:
        display.add(report.rows, sum(report.failed.values()))

    scheduler = Scheduler(lots(items), journal.write, on_report)
    with clusters.joined(ClusterConfig(), DeviceConfig("cpu"), hosts) as ray:
        driver = Driver(scheduler, Crowd(ray, hosts), workers)
        watch = threading.Thread(target=sample, args=(driver, display), daemon=True)
        watch.start()
        driver.run()
        watch.join()


def sample(driver: Driver, display: Display) -> None:
    """CPU seconds of this process, all its threads, over a minute of steady work."""
    time.sleep(WARM)
    start, before, rows = time.monotonic(), used(), display.done
    time.sleep(MEASURED)
    seconds, cpu = time.monotonic() - start, used() - before
    shards = (display.done - rows) / ROWS
    print(
        f"{len(driver.scheduler.hands)} workers, {shards / seconds:.1f} shards/s:"
        f" {cpu / seconds:.1%} of a core ({cpu:.1f} s in {seconds:.0f} s, load"
        f" {os.getloadavg()[0]:.1f})"
    )
    driver.drain(0)


def used() -> float:
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_utime + found.ru_stime


if __name__ == "__main__":
    main()
