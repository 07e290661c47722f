"""`python -m tests.chaos.driver OUT`: the production driver over workers without a model.

Exit codes are those of the command line: 0 everything is there, 1 something is missing and named.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
from dataclasses import dataclass
from typing import Any

from lmmsteer.config import ClusterConfig, DeviceConfig
from lmmsteer.errors import RunFailed
from lmmsteer.fleet import cluster as clusters
from lmmsteer.fleet import lookout, run
from lmmsteer.fleet.driver import Driver
from lmmsteer.fleet.journal import Journal, place_among_drivers
from lmmsteer.fleet.rays import RayFleet
from lmmsteer.fleet.scheduler import Scheduler
from lmmsteer.fleet.work import Failure, lots
from lmmsteer.store import Store, open_store
from tests.chaos import world
from tests.chaos.worker import Worker


@dataclass(frozen=True)
class Core:
    """What lmmsteer.device.Device says of a processor, without torch."""

    kind: str = "cpu"

    def ray_resources(self, cpus: float = 1) -> dict[str, Any]:
        return {"num_cpus": cpus}


def main() -> int:
    wanted = arguments()
    lookout.GONE_SECONDS = wanted.gone
    try:
        return work(wanted)
    except RunFailed as error:
        print(f"{error.what} {error.mend}".strip(), file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted. The same command again does what is missing.", file=sys.stderr)
    return 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--address")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--deadline", type=float, default=600.0)
    parser.add_argument("--drain", type=float, default=15.0)
    parser.add_argument("--gone", type=float, default=lookout.GONE_SECONDS)
    return parser.parse_args()


def work(wanted: argparse.Namespace) -> int:
    """What jobs.generate does, from a manifest that is there."""
    store = open_store(wanted.out)
    store.collect()
    journal = Journal(store, "generate")
    place = place_among_drivers(store)
    journal.write("start", driver=journal.driver, pid=os.getpid())
    left = world.items(store)
    first = int(place * len(left))
    failures = answer(wanted, [*left[first:], *left[:first]], journal) if left else []
    code = conclude(store, failures)
    journal.write("end", code=code)
    journal.close()
    return code


def answer(wanted: argparse.Namespace, items: list[Any], journal: Journal) -> list[Failure]:
    """What lmmsteer.fleet.run.carry_out does, with other workers."""
    cluster = ClusterConfig(wanted.address, wanted.workers, wanted.deadline, wanted.drain)
    scheduler = Scheduler(
        lots(items), journal.write, lambda item, report: None, {}, cluster.deadline
    )
    with clusters.joined(cluster, DeviceConfig("cpu"), wanted.workers or 1) as ray:
        fleet = RayFleet(ray, Worker, Core(), 1, (run._node,))  # type: ignore[arg-type]
        driver = Driver(scheduler, fleet, wanted.workers)
        with run._stoppable(driver, cluster.drain) as stop:
            driver.run()
    if stop.asked:
        raise KeyboardInterrupt
    return scheduler.failures


def conclude(store: Store, failures: list[Failure]) -> int:
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    planned, done = world.planned(store), len(store.list("responses"))
    print(f"{done} of {planned} parts")
    return 1 if failures or done < planned else 0


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)  # What a driver that does not end is waiting for.
    signal.signal(signal.SIGTERM, _stop)  # As the command line does.
    sys.exit(main())
