"""A Ray cluster of several raylets on this machine, to be broken: a head and some nodes.

It lives as long as a schedule leaves it alive; `mend` brings back what is missing.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

TRIES = 3
HEAD, CPUS = 4, 2  # Logical cores of the head and of a node: workers here mostly sleep.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}
# A node that is silent is given up in some 5 seconds, not in 20 as Ray does by itself.
PATIENCE = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 4000,
    "health_check_failure_threshold": 4,
}


class Cluster:
    """Head and nodes as processes of this one. Only one at a time."""

    def __init__(self) -> None:
        os.environ.update(QUIET)
        self.ray: Any  # A ray.cluster_utils.Cluster, while there is one.
        self.ray = None
        self.folder = ""
        self.started = 0

    @property
    def address(self) -> str:
        return self.ray.address

    @property
    def nodes(self) -> list[Any]:
        """Those beside the head whose raylet lives."""
        return [node for node in self._all if alive(pid(node, "raylet"))]

    @property
    def _all(self) -> list[Any]:
        return list(self.ray.worker_nodes)

    def mend(self, nodes: int) -> None:
        """A living head with so many living nodes; all anew where a busy machine is too slow."""
        for _ in range(TRIES):
            try:
                return self._mend(nodes)
            except Exception as error:
                print(f"Ray did not start: {error}", flush=True)
                self.stop()
        raise RuntimeError(f"Ray did not start in {TRIES} attempts")

    def _mend(self, nodes: int) -> None:
        if self.ray is None or not self._whole():
            self.stop()
            self._start()
        for node in self._all:
            if node not in self.nodes:
                self.remove(node)
        for node in self.nodes[nodes:]:
            self.remove(node)
        for _ in range(nodes - len(self.nodes)):
            self.add()

    def add(self) -> None:
        self.ray.add_node(num_cpus=CPUS, **self._own())

    def remove(self, node: Any) -> None:
        for number in processes(node):
            signal_to(number, signal.SIGCONT)
        self.ray.remove_node(node, allow_graceful=False)

    def raylet(self, node: Any) -> int:
        return pid(node, "raylet")

    @property
    def head(self) -> int:
        """The raylet that every driver here hangs on."""
        return pid(self.ray.head_node, "raylet")

    @property
    def control(self) -> int:
        """The process of the GCS."""
        return pid(self.ray.head_node, "gcs_server")

    def stop(self) -> None:
        if self.ray is not None:
            for node in self._all:
                self.remove(node)
            if self.ray.head_node is not None:
                self.ray.remove_node(self.ray.head_node, allow_graceful=False)
            self.ray = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _whole(self) -> bool:
        return alive(self.head) and alive(self.control)

    def _start(self) -> None:
        from ray.cluster_utils import Cluster as Raylets

        logging.getLogger("ray").setLevel(logging.ERROR)
        self.folder = tempfile.mkdtemp(prefix="chaos")
        self.started += 1
        self.ray = Raylets()
        self.ray.add_node(
            num_cpus=HEAD, include_dashboard=False, _system_config=PATIENCE, **self._own()
        )

    def _own(self) -> dict[str, Any]:
        return {"temp_dir": self.folder, "object_store_memory": 80 * 2**20}


def pid(node: Any, kind: str) -> int:
    return node.all_processes[kind][0].process.pid


def alive(number: int) -> bool:
    """Whether a process runs: not gone, and no zombie."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def processes(node: Any) -> list[int]:
    """The raylet of a node and all that it has started."""
    raylet = pid(node, "raylet")
    return [raylet, *children(raylet)]


def children(number: int) -> list[int]:
    try:
        listed = Path(f"/proc/{number}/task/{number}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in listed.split()]


def command_of(number: int) -> str:
    """A process's command line; empty where it is gone."""
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def signal_to(number: int, which: int) -> bool:
    """Whether there was still a process to send it to."""
    try:
        os.kill(number, which)
    except OSError:
        return False
    return True
