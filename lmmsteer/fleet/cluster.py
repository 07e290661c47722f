"""Ray, started or joined, its noise kept off the screen and its errors told in one sentence."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lmmsteer.config import ClusterConfig, DeviceConfig
from lmmsteer.errors import LmmsteerError, RunFailed

if TYPE_CHECKING:
    from lmmsteer.device import Device

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_LOG_TO_DRIVER": "0",
    "PYTHONWARNINGS": "ignore",
}
KNOCK_SECONDS = 10.0


@contextmanager
def joined(cluster: ClusterConfig, wanted: DeviceConfig, workers: int) -> Iterator[Any]:
    """The `ray` module, connected: to `cluster.address`, to RAY_ADDRESS, or to one started here."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        import ray._private.utils
        import ray._private.worker

    _hush(ray._private.worker, ray._private.utils)
    address = address_of(cluster)
    try:
        if address:
            _knock(address)
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
    try:
        yield ray
    finally:
        _leave(ray)


def _leave(ray: Any) -> None:
    """Shut Ray down, which gives SIGTERM back to the system: it would end us without a word.

    Our handler is put back as soon as may be, before the seconds that Ray's processes take to end.
    """
    node = ray._private.worker._global_node
    if node is not None:
        inner = node.kill_all_processes

        def kill_all_processes(*given: Any, **named: Any) -> Any:
            _heed_again()
            return inner(*given, **named)

        node.kill_all_processes = kill_all_processes
    ray.shutdown()
    _heed_again()


def _heed_again() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread() and callable(handler):
        signal.signal(signal.SIGTERM, handler)


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray would try for minutes, and say so every few seconds.

    Names that are not host:port (auto, ray://...) are left to Ray.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()


def _hush(worker: Any, utils: Any) -> None:
    """Two habits of Ray's drivers for which it has no switch: a page of its own view of every death
    on the screen, and an end with code 15, without a word, where SIGTERM comes while it starts.
    """
    worker.listen_error_messages = lambda worker, stopped: None
    utils.set_sigterm_handler = lambda handler: None


def address_of(cluster: ClusterConfig) -> str | None:
    """The Ray cluster to join: `cluster.address`, else what a Ray job is told; None starts one."""
    return cluster.address or os.environ.get("RAY_ADDRESS") or None


def device_of(cluster: ClusterConfig, wanted: DeviceConfig) -> Device:
    """The device of the workers; on a cluster the machine that starts a run may have none."""
    from lmmsteer import device

    if wanted.kind in ("cuda", "hpu") and address_of(cluster):
        found = device.Device(wanted.kind)  # type: ignore[arg-type]
    else:
        found = device.detect(wanted.kind)
    _check_gaudi(wanted, found)
    return found


def _check_gaudi(wanted: DeviceConfig, found: Device) -> None:
    """Raises: LmmsteerError for keys of Gaudi cards where workers have none, or a wrong mode."""
    from lmmsteer.device import MODES

    for key, value in (("mode", wanted.mode), ("recipes", wanted.recipes)):
        if value is not None and found.kind != "hpu":
            raise LmmsteerError(
                f"device.{key}={value} is for Gaudi cards, and the workers run on {found.kind}.",
                f"Leave device.{key} out, or use device=hpu",
            )
    if wanted.mode not in (None, *MODES):
        raise LmmsteerError(
            f"device.mode={wanted.mode} is not a mode of Gaudi cards.",
            f"Use device.mode={'|'.join(MODES)}",
        )


def workers_wanted(cluster: ClusterConfig, wanted: DeviceConfig, work: int) -> int:
    """`cluster.workers`, or one for each card of this machine; on CPU one for each core."""
    if cluster.workers is not None:
        return max(1, min(cluster.workers, work))
    found = device_of(cluster, wanted)
    local = found.kind != "cpu" and not address_of(cluster)
    cards = found.count() if local else (os.cpu_count() or 1) // wanted.threads
    return max(1, min(cards, work))
