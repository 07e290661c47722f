"""The loop that hands shards to workers. It keeps nothing that the output folder does not have.

Two shards are sent ahead to each worker. A worker that dies is replaced and what it held is sent
again; the shard it was at is blamed, and given up after three deaths.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from lmmsteer.config import ClusterConfig, DeviceConfig
from lmmsteer.errors import RunFailed
from lmmsteer.fleet import cluster as clusters
from lmmsteer.fleet.task import FitTask, ModelSpec, Report, Task
from lmmsteer.store import Store

AHEAD = 2
MAX_DEATHS = 3
START_SECONDS = 300


@dataclass(eq=False)
class Item:
    """One piece of work: a shard of a cell, or a fit. `rows` is what it adds to the progress."""

    task: Task | FitTask
    part: str
    rows: int
    label: str
    deaths: int = 0

    @property
    def model(self) -> ModelSpec:
        return self.task.model


@dataclass(frozen=True)
class Failure:
    """A piece of work that was given up, and why."""

    label: str
    part: str
    error: str


@dataclass(eq=False)
class _Hand:
    """A worker as the driver sees it."""

    number: int
    actor: Any
    held: dict[Any, Item] = field(default_factory=dict)  # in the order they were sent
    model: ModelSpec | None = None


class Log:
    """out/logs/NAME.jsonl: everything about time, workers and attempts, which no part may hold."""

    def __init__(self, store: Store, verb: str) -> None:
        self.store = store
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self.path = f"logs/{verb}-{stamp}-{time.time_ns() % 1_000_000_000:09d}.jsonl"

    def write(self, event: str, **facts: Any) -> None:
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **facts}
        self.store.append(self.path, json.dumps(line, ensure_ascii=False))


class Driver:
    """Runs items on workers until none is left; failures are collected, never raised mid-way."""

    def __init__(
        self,
        cluster: ClusterConfig,
        device: DeviceConfig,
        log: Log,
        on_report: Callable[[Item, Report], None],
    ) -> None:
        self.cluster, self.device, self.log, self.on_report = cluster, device, log, on_report
        self.failures: list[Failure] = []
        self._queue: deque[Item] = deque()
        self._hands: list[_Hand] = []
        self._started = 0
        self._dead_models: dict[ModelSpec, str] = {}

    def run(self, items: Iterable[Item]) -> list[Failure]:
        """Everything done or given up. Items should be ordered so that a model's stand together."""
        self._queue.extend(items)
        if not self._queue:
            return []
        workers = clusters.workers_wanted(self.cluster, self.device, len(self._queue))
        with clusters.joined(self.cluster, self.device, workers) as ray:
            self._hands = self._hire(ray, workers)
            self._loop(ray)
        return self.failures

    def _loop(self, ray: Any) -> None:
        while True:
            for hand in self._hands:
                self._hand_out(hand)
            refs = {ref: hand for hand in self._hands for ref in hand.held}
            if not refs:
                return
            ready, _ = ray.wait(list(refs), num_returns=1, timeout=1.0)
            for ref in ready:
                if ref in refs[ref].held:
                    self._take_in(ray, refs[ref], ref)

    def _hand_out(self, hand: _Hand) -> None:
        while len(hand.held) < AHEAD:
            item = self._next(hand)
            if item is None:
                return
            method = hand.actor.run if isinstance(item.task, Task) else hand.actor.fit
            arguments = (item.task, item.part) if isinstance(item.task, Task) else (item.task,)
            hand.held[method.remote(*arguments)] = item
            hand.model = item.model

    def _next(self, hand: _Hand) -> Item | None:
        """The first item of the model that the worker has loaded, else the first of all."""
        if not self._queue:
            return None
        for item in self._queue:
            if item.model == hand.model:
                self._queue.remove(item)
                return item
        return self._queue.popleft()

    def _take_in(self, ray: Any, hand: _Hand, ref: Any) -> None:
        try:
            report: Report = ray.get(ref)
        except ray.exceptions.RayError as error:
            self._replace(ray, hand, error)
            return
        item = hand.held.pop(ref)
        for name in report.loads:
            self.log.write("load", model=name, worker=hand.number)
        facts = {"rows": report.rows, "failed": report.failed, "seconds": round(report.seconds, 3)}
        if report.engine:
            facts["engine"] = report.engine
        self.log.write("done", cell=item.label, part=item.part, worker=hand.number, **facts)
        if report.failure == "model":
            self._give_up_model(item, report.error)
        elif report.failure is not None:
            self._give_up(item, report.error)
        self.on_report(item, report)

    def _replace(self, ray: Any, hand: _Hand, error: Exception) -> None:
        """A worker died: blame the shard it was at, send all it held again, hire another."""
        items = list(hand.held.values())
        hand.held.clear()
        why = _translate(error)
        self.log.write("death", worker=hand.number, error=why, parts=[i.part for i in items])
        ray.kill(hand.actor)
        items[0].deaths += 1
        if items[0].deaths >= MAX_DEATHS:
            given_up = items.pop(0)
            self._give_up(given_up, f"its worker died {MAX_DEATHS} times: {why}")
            self.on_report(given_up, Report(failure="shard", error=why))
        self._queue.extendleft(reversed(items))
        self._hands.remove(hand)
        if self._queue:
            self._hands += self._hire(ray)

    def _hire(self, ray: Any, count: int = 1) -> list[_Hand]:
        """New workers, started side by side; it is an error if one does not come up."""
        hands = []
        for _ in range(count):
            self._started += 1
            hands.append(_Hand(self._started, clusters.actor(ray, self.device)))
        try:
            described = ray.get([h.actor.describe.remote() for h in hands], timeout=START_SECONDS)
        except ray.exceptions.GetTimeoutError as error:
            raise RunFailed(
                f"Not every one of {count} workers could be started in {START_SECONDS} s: the"
                f" cluster has no free {self.device.kind} device.",
                "Ask for fewer with cluster.workers=N, or check the cluster: lmmsteer doctor",
            ) from error
        except ray.exceptions.RayError as error:
            raise RunFailed(
                f"A worker cannot start: {_translate(error)}.", "Check the machine: lmmsteer doctor"
            ) from error
        for hand, facts in zip(hands, described, strict=True):
            self.log.write("worker", worker=hand.number, **facts)
        return hands

    def _give_up(self, item: Item, error: str) -> None:
        self.failures.append(Failure(item.label, item.part, error))
        self.log.write("failure", cell=item.label, part=item.part, error=error)

    def _give_up_model(self, item: Item, error: str) -> None:
        """A model that cannot be loaded: none of its items is tried again."""
        self._give_up(item, error)
        if item.model in self._dead_models:
            return
        self._dead_models[item.model] = error
        rest = [other for other in self._queue if other.model == item.model]
        self._queue = deque(other for other in self._queue if other.model != item.model)
        for other in rest:
            self._give_up(other, error)
            self.on_report(other, Report(failure="model", error=error))


def _translate(error: Exception) -> str:
    """The first telling line of a Ray error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "cause" in line.lower() or "Error" in line]
    return (telling or lines or [type(error).__name__])[-1 if telling else 0][:300].rstrip(".")
