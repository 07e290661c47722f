"""A fleet of Ray actors: each call becomes a future, each future an event."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lmmsteer.errors import RunFailed
from lmmsteer.fleet.driver import Answered, Beat, Event, Lost, Up
from lmmsteer.fleet.lookout import AGAIN, Lookout
from lmmsteer.fleet.task import Report
from lmmsteer.fleet.work import Call, Cause

if TYPE_CHECKING:
    from lmmsteer.device import Device

NODE_DIED = (
    "node has died",
    "node died",
    "raylet died",
    "node was terminated",
    "node is dead",
    "owner has died",
)
PATIENCE = 1.0  # Seconds that a look at the cluster may take; else what was seen before counts.
FIRST_PATIENCE = 30.0
log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Actor:
    """A Ray actor, and what is known of where it runs."""

    handle: Any
    node: str | None = None
    pid: int | None = None
    asked: bool = False
    refs: set[Any] = field(default_factory=set)


@dataclass(frozen=True, eq=False)
class _Outcome:
    """A future that has ended, of which actor's call, and the event that its value makes."""

    number: int
    actor: _Actor
    event: Callable[[Any], Event | None]
    future: Future[Any]


class RayFleet:
    """Workers of class `worker` on a joined Ray cluster, one to each card.

    device: what a worker holds. threads: CPU threads of one. arguments: of the worker's __init__.
    """

    def __init__(
        self, ray: Any, worker: type, device: Device, threads: int, arguments: Sequence[Any]
    ) -> None:
        self.ray, self.device, self.threads = ray, device, threads
        self.arguments = tuple(arguments)
        self.lookout = Lookout(ray)
        self.lookout.ask(FIRST_PATIENCE)
        self._happened: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
        self._actors: dict[int, _Actor] = {}
        self._class = ray.remote(concurrency_groups={"control": 1})(worker)

    def room(self) -> int:
        self.lookout.ask(PATIENCE)
        have = self.lookout.resources
        if self.device.kind == "cpu":
            return int(have.get("CPU", 0) // self.threads)
        return int(have.get("GPU" if self.device.kind == "cuda" else "HPU", 0))

    def hire(self, number: int) -> None:
        resources = self.device.ray_resources(self.threads)
        options = {**resources, "max_restarts": 0, "max_task_retries": 0}
        actor = _Actor(self._class.options(**options).remote(*self.arguments))
        self._actors[number] = actor
        self._follow(number, actor.handle.describe.remote(), partial(self._up, number))

    def send(self, number: int, call: Call) -> None:
        actor = self._actors[number]
        self._follow(number, self._remote(actor.handle, call), partial(Answered, number, call))

    def ask(self, number: int) -> None:
        actor = self._actors[number]
        if not actor.asked:
            actor.asked = True
            ref = actor.handle.pulse.options(concurrency_group="control").remote()
            self._follow(number, ref, partial(self._beat, number))

    def dismiss(self, number: int) -> None:
        actor = self._actors.pop(number, None)
        if actor is not None:  # In a thread: both steps wait for a control store, if it is gone.
            threading.Thread(target=self._kill, args=(actor,), daemon=True).start()

    def events(self, seconds: float) -> Sequence[Event]:
        """Raises: RunFailed where the cluster is gone, and nothing more is heard of its workers."""
        try:
            ended = [self._happened.get(timeout=seconds)]
        except queue.Empty:
            why = self.lookout.end()
            if why is not None:
                raise RunFailed(why, AGAIN) from None
            return []
        while not self._happened.empty():
            ended.append(self._happened.get())
        return [event for outcome in ended if (event := self._told(outcome)) is not None]

    def _remote(self, handle: Any, call: Call) -> Any:
        item = call.item
        if item is None:
            return handle.load.remote(call.model)
        if call.kind == "fit":
            return handle.fit.remote(item.task)
        shard = (item.task, item.part, item.digests)
        if call.kind == "probe":
            return handle.probe.remote(*shard, call.row)
        return handle.run.remote(*shard, dict(call.excluded))

    def _follow(self, number: int, ref: Any, event: Callable[[Any], Event | None]) -> None:
        """Queue what becomes of a call. Ray calls back from the thread that all its own answers
        come through: a question to Ray from there would never be answered, so none is asked.
        """
        actor = self._actors[number]
        actor.refs.add(ref)

        def ended(future: Future[Any]) -> None:
            actor.refs.discard(ref)
            self._happened.put(_Outcome(number, actor, event, future))

        ref.future().add_done_callback(ended)

    def _told(self, outcome: _Outcome) -> Event | None:
        """The event of a call that has ended; None where nobody waits for it any more."""
        if self._actors.get(outcome.number) is not outcome.actor:
            return None
        error = outcome.future.exception()
        if error is None:
            return outcome.event(outcome.future.result())
        return self._wrong(outcome, error)

    def _wrong(self, outcome: _Outcome, error: BaseException) -> Event:
        """An exception of a call is a failed shard; everything else is a worker's end."""
        raised = isinstance(error, self.ray.exceptions.RayTaskError)
        if raised and isinstance(outcome.event, partial) and outcome.event.func is Answered:
            failed = outcome.event(Report(failure="shard", error=translate(error)))
            assert failed is not None
            return failed
        cause = self._cause(outcome.actor, error)
        self.dismiss(outcome.number)
        return Lost(outcome.number, translate(error), cause)

    def _cause(self, actor: _Actor, error: BaseException) -> Cause:
        text = str(error).lower()
        if any(sign in text for sign in NODE_DIED):
            return "node"
        self.lookout.ask(PATIENCE, age=1.0)
        return "died" if actor.node is None or self.lookout.nodes.get(actor.node) else "node"

    def _up(self, number: int, facts: dict[str, Any]) -> Up:
        actor = self._actors[number]
        actor.node, actor.pid = facts.get("node"), facts.get("pid")
        return Up(number, facts)

    def _beat(self, number: int, said: tuple[str, int]) -> Beat:
        self._actors[number].asked = False
        return Beat(number, *said)

    def _kill(self, actor: _Actor) -> None:
        """End it; a stopped process does not hear Ray, but it does not survive SIGKILL."""
        try:
            self.ray.kill(actor.handle)
            if actor.node and actor.pid:
                where = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                    actor.node, soft=False
                )
                options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": where}
                self.ray.remote(**options)(end_process).remote(actor.pid)
        except Exception as error:  # It is gone, or its node is: that was the aim.
            log.debug("a worker could not be ended: %s", error)


def end_process(pid: int, word: str = "ray::") -> None:
    """SIGKILL to a worker's process, if the number still is one of Ray's."""
    import os
    import signal
    from contextlib import suppress
    from pathlib import Path

    with suppress(OSError):
        if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


def translate(error: BaseException) -> str:
    """The first telling line of a Ray error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "cause" in line.lower() or "Error" in line]
    return (telling or lines or [type(error).__name__])[-1 if telling else 0][:300].rstrip(".")
