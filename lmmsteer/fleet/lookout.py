"""What the cluster says of itself, asked by a thread, so that nobody waits for the answer.

A control store that is gone does not refuse: it is silent, and Ray waits for it, then ends the
process without a word. So somebody has to look out for that, and for the driver's own node.
"""

from __future__ import annotations

import threading
import time
from typing import Any

GONE_SECONDS = 45.0  # Without an answer. Ray ends the process after 60.
AGAIN = "The same command again, on a cluster that works, does what is missing."


class Lookout:
    """resources, nodes: as they were last told of; nodes: whether each is alive, by its id."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.home = ray.get_runtime_context().get_node_id()
        self.resources: dict[str, float] = {}
        self.nodes: dict[str, bool] = {}
        self._told = float("-inf")
        self._since: float | None = None  # When the question was asked that has no answer.
        self._asking: threading.Thread | None = None

    def ask(self, patience: float, age: float = 0.0) -> None:
        """Ask again, unless the last answer is younger than `age` seconds or a question is open;
        wait for the answer no longer than `patience` seconds."""
        now = time.monotonic()
        if now - self._told < age:
            return
        if self._asking is None or not self._asking.is_alive():
            self._since = self._since or now
            self._asking = threading.Thread(target=self._ask, name="lookout", daemon=True)
            self._asking.start()
        self._asking.join(patience)

    def end(self) -> str | None:
        """Why nothing more can come of this cluster; None where something can."""
        if self._since is not None and time.monotonic() - self._since > GONE_SECONDS:
            return f"The Ray cluster's control store has not answered for {GONE_SECONDS:.0f} s."
        if not self.nodes.get(self.home, True):
            return "The Ray node that this command works through is gone, and its workers with it."
        return None

    def _ask(self) -> None:
        try:
            resources = self.ray.cluster_resources()
            nodes = {node["NodeID"]: bool(node["Alive"]) for node in self.ray.nodes()}
        except Exception:  # No answer: what matters is for how long there is none.
            return
        self.resources, self.nodes, self._since = resources, nodes, None
        self._told = time.monotonic()
