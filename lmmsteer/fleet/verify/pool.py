"""Units checked one after the other, or by several processes; in order either way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from lmmsteer.errors import RunFailed
from lmmsteer.fleet.verify import units as units_
from lmmsteer.fleet.verify.units import Outcome, Unit
from lmmsteer.store import Store, open_store

UNITS_AT_ONCE = 16
FILES_A_PROCESS = 512  # Fewer are read in the time that a process needs to start.


def check(store: Store, units: Sequence[Unit], workers: int | None) -> Iterator[Outcome]:
    """Every unit's outcome. workers: processes; None: one for each core, fewer for little work."""
    if workers is None:
        files = sum(unit.files for unit in units)
        workers = min(_cores(), files // FILES_A_PROCESS)
    if workers <= 1:
        return (units_.check(store, unit) for unit in units)
    return _in_processes(store, units, workers)


def _in_processes(store: Store, units: Sequence[Unit], workers: int) -> Iterator[Outcome]:
    context = get_context("spawn")  # A forked one would share pyarrow's threads.
    pool = ProcessPoolExecutor(workers, context, _open, (store.root,))
    try:
        yield from pool.map(_check, units, chunksize=UNITS_AT_ONCE)
    except BrokenProcessPool as error:
        raise RunFailed(
            "A process that read parts was killed: is there memory for its largest shard?",
            "Try one process: workers=1",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """Those that this process may use, where the system can say so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_store: Store


def _open(root: str) -> None:
    global _store
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The first process ends the others.
    _store = open_store(root)


def _check(unit: Unit) -> Outcome:
    return units_.check(_store, unit)
