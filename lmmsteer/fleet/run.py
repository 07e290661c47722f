"""A run from its work to its failures: Ray joined, workers hired, a stop asked for and heeded."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lmmsteer.config import ClusterConfig, DeviceConfig
from lmmsteer.fleet import cluster as clusters
from lmmsteer.fleet import stack
from lmmsteer.fleet.driver import Driver
from lmmsteer.fleet.journal import Journal
from lmmsteer.fleet.scheduler import Scheduler
from lmmsteer.fleet.work import Budget, Failure, Lot, Reported


def carry_out(
    lots: list[Lot],
    cluster: ClusterConfig,
    device: DeviceConfig,
    journal: Journal,
    on_report: Reported,
    budgets: Mapping[str, Budget] | None = None,
    planned: Mapping[str, Any] | None = None,
) -> list[Failure]:
    """Do all the work, or give it up and say why.

    planned: the stack that workers must have; None where any will do.
    Raises: RunFailed where Ray cannot be joined or no worker comes up; KeyboardInterrupt when a
    stop was asked for.
    """
    work = sum(lot.left for lot in lots)
    if not work:
        return []
    from lmmsteer.fleet.rays import RayFleet
    from lmmsteer.fleet.worker import Worker

    scheduler = Scheduler(lots, journal.write, on_report, budgets or {}, cluster.deadline)
    workers = clusters.workers_wanted(cluster, device, work)
    with clusters.joined(cluster, device, workers) as ray:
        found = clusters.device_of(cluster, device)
        arguments = (found.kind, device.threads, _node, device.mode, device.recipes)
        fleet = RayFleet(ray, Worker, found, device.threads, arguments)
        grows = cluster.workers is None and clusters.address_of(cluster) is not None
        driver = Driver(scheduler, fleet, None if grows else workers, _fits(planned))
        with _stoppable(driver, cluster.drain) as stop:
            driver.run()
    if stop.asked:
        raise KeyboardInterrupt
    return scheduler.failures


class _Stop:
    """Whether a stop was asked for."""

    asked = False


@contextmanager
def _stoppable(driver: Driver, seconds: float) -> Iterator[_Stop]:
    """SIGTERM or Ctrl-C: no new shards, `seconds` for the open ones; the second time at once."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def heed(number: int, frame: object) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        print(
            f"\nStopping: open shards have {seconds:.0f} s to end; once more stops at once.",
            file=sys.stderr,
            flush=True,
        )
        driver.drain(seconds)

    old = {number: signal.signal(number, heed) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _fits(planned: Mapping[str, Any] | None) -> Any:
    def wrong(facts: Mapping[str, Any]) -> str | None:
        return stack.difference(planned, facts.get("stack", {})) if planned is not None else None

    return wrong


def _node() -> str:
    """The node that a worker runs on, as Ray names it."""
    import ray

    return str(ray.get_runtime_context().get_node_id())
