"""Ray, started or joined, its noise kept off the screen and its errors told in one sentence."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lmmsteer import device
from lmmsteer.config import ClusterConfig, DeviceConfig
from lmmsteer.errors import RunFailed

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_LOG_TO_DRIVER": "0",
    "PYTHONWARNINGS": "ignore",
}


@contextmanager
def joined(cluster: ClusterConfig, wanted: DeviceConfig, workers: int) -> Iterator[Any]:
    """The `ray` module, connected: to `cluster.address`, to RAY_ADDRESS, or to one started here."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

    main = threading.current_thread() is threading.main_thread()
    ours = signal.getsignal(signal.SIGTERM) if main else None
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            cores = max(os.cpu_count() or 1, workers * wanted.threads)
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:
        text = " ".join(str(error).split())
        where = f"the cluster at {address}" if address else "a Ray cluster on this machine"
        mend = "Check it with: lmmsteer doctor" + (f" cluster.address={address}" if address else "")
        raise RunFailed(f"Ray cannot join {where}: {text[:300]}.", mend) from error
    if ours is not None:  # Ray's own handler prints a stack and ends the process with 15
        signal.signal(signal.SIGTERM, ours)
    try:
        yield ray
    finally:
        ray.shutdown()


def workers_wanted(cluster: ClusterConfig, wanted: DeviceConfig, work: int) -> int:
    """`cluster.workers`, or one for each card of this machine; on CPU one for each core."""
    if cluster.workers is not None:
        return max(1, min(cluster.workers, work))
    found = device.detect(wanted.kind)
    cards = found.count() if found.kind != "cpu" else (os.cpu_count() or 1) // wanted.threads
    return max(1, min(cards, work))


def actor(ray: Any, wanted: DeviceConfig) -> Any:
    """A new worker, pinned to its card. It restarts never: the driver decides."""
    from lmmsteer.fleet.worker import Worker

    found = device.detect(wanted.kind)
    options = {**found.ray_resources(wanted.threads), "max_restarts": 0, "max_task_retries": 0}
    return ray.remote(Worker).options(**options).remote(found.kind, wanted.threads)
