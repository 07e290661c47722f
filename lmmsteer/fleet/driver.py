"""The loop between decisions and workers. It keeps nothing that the output folder does not have.

Hires, hands out, takes in and looks after; what to do is the scheduler's, how it is done the
fleet's. Killed at any instant, it is replaced by the same command again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lmmsteer.errors import RunFailed
from lmmsteer.fleet.scheduler import AHEAD, Scheduler
from lmmsteer.fleet.task import Report
from lmmsteer.fleet.work import Call, Cause, Hand

START_SECONDS = 300.0  # For the first worker to come up, and after the last was lost.
MAX_STARTS = 3  # Workers that may fail to start one after the other.
LONGEST_BREAK = 60.0  # Seconds without hiring after workers failed to start.
LOOK_SECONDS = 10.0  # Between two looks at workers' progress, and at the cluster's size.


@dataclass(frozen=True)
class Up:
    """A worker is there, and says who it is."""

    number: int
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answered:
    """A worker has answered a call."""

    number: int
    call: Call
    report: Report


@dataclass(frozen=True)
class Beat:
    """How far a worker is: anything that differs from before is progress."""

    number: int
    stage: str
    count: int


@dataclass(frozen=True)
class Lost:
    """A worker is gone, or never came up."""

    number: int
    why: str
    cause: Cause = "died"


Event = Up | Answered | Beat | Lost


class Fleet(Protocol):
    """Workers somewhere. Nothing here waits but `events`."""

    def room(self) -> int:
        """How many workers there is place for now."""
        ...

    def hire(self, number: int) -> None:
        """Start a worker; Up or Lost follows."""
        ...

    def send(self, number: int, call: Call) -> None:
        """Answered or Lost follows."""
        ...

    def ask(self, number: int) -> None:
        """How far it is; Beat follows, if it can say so."""
        ...

    def dismiss(self, number: int) -> None:
        """End a worker, whatever state it is in. No event of it follows."""
        ...

    def events(self, seconds: float) -> Sequence[Event]:
        """What has happened; waits for something up to so many seconds."""
        ...


class Driver:
    """Runs a scheduler's work on a fleet.

    workers: how many to keep (None: as many as there is room for). wrong: what makes a worker unfit
    to join, from what it says of itself. clock: seconds, only ever compared with itself.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        fleet: Fleet,
        workers: int | None = None,
        wrong: Callable[[dict[str, Any]], str | None] = lambda facts: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler, self.fleet, self.clock = scheduler, fleet, clock
        self.workers, self.wrong = workers, wrong
        self.hired = 0
        self.failed_starts, self.why_not = 0, ""
        self.coming: dict[int, float] = {}  # Hired, and not up yet: since when.
        self._ready: dict[int, None] = {}  # Workers to whom something may be sent, in order.
        self._idle: dict[int, None] = {}
        self._looked = self._up_at = self._hire_at = clock()
        self._room = 0
        self._cards: dict[int, Any] = {}
        self._until: float | None = None

    def run(self) -> None:
        """Until everything is done or given up, or a drain's time is over.

        Raises: RunFailed where no worker comes up.
        """
        self._room = self.fleet.room()
        while not self.scheduler.done and not self._over():
            if self._until is not None:
                self.scheduler.drain()
            self._staff()
            self._hand_out()
            for event in self.fleet.events(self._pause()):
                self._take(event)
            self._look_after()
        self.scheduler.close()

    def drain(self, seconds: float) -> None:
        """Send nothing more; what is under way has so many seconds to end.

        Called by signal handlers, so at any instruction: the loop does it in its next round.
        """
        self._until = self.clock() + seconds

    def _over(self) -> bool:
        return self._until is not None and self.clock() >= self._until

    def _pause(self) -> float:
        pause = min(LOOK_SECONDS, self.scheduler.deadline / 4)
        return min(pause, 0.2) if self._until is not None else min(pause, 1.0)

    def _staff(self) -> None:
        """Hire until there are as many workers as wanted, no more than there is work for."""
        now, want = self.clock(), self._wanted()
        if now < self._hire_at:
            return
        hands = self.scheduler.hands.values()
        # Some may never come. Where others have, few more are asked for: there may be no room.
        coming = len(self.coming) - min(self._late(now), 1 + want // 16 if hands else want)
        free = coming + sum(1 for h in hands if not h.open or h.open[0].item is None)
        missing = want - len(hands) - coming
        for _ in range(min(missing, self.scheduler.waiting - free)):
            self.hired += 1
            self.coming[self.hired] = now
            self.fleet.hire(self.hired)

    def _wanted(self) -> int:
        return max(1, self._room if self.workers is None else self.workers)

    def _late(self, now: float) -> int:
        """Workers that should be up by now: others are hired beside them."""
        return sum(now - since > START_SECONDS / 4 for since in self.coming.values())

    def _hand_out(self) -> None:
        """One call to each worker that has none, then what is sent ahead."""
        if self.scheduler.stirred:
            self.scheduler.stirred = False
            self._ready |= self._idle
            self._idle.clear()
        for depth in range(1, AHEAD + 1):
            for number in list(self._ready):
                self._offer(self.scheduler.hands[number], depth)
        self._ready.clear()

    def _offer(self, hand: Hand, depth: int) -> None:
        call = self.scheduler.offer(hand, self.clock(), depth)
        if call is not None:
            self.fleet.send(hand.number, call)
        elif not hand.open:
            self._idle[hand.number] = None

    def _take(self, event: Event) -> None:
        number, now = event.number, self.clock()
        if isinstance(event, Up):
            self._welcome(event, now)
        elif isinstance(event, Lost):
            self._miss(event, now)
        elif number not in self.scheduler.hands:
            return  # Of a worker that was given up.
        elif isinstance(event, Beat):
            self.scheduler.beat(number, event.stage, event.count, now)
        else:
            self._note_done(event)
            self.scheduler.answered(self.scheduler.hands[number], event.call, event.report, now)
            self._ready[number] = None
            self._idle.pop(number, None)

    def _welcome(self, event: Up, now: float) -> None:
        if event.number not in self.coming:
            return
        del self.coming[event.number]
        self.scheduler.note("worker", worker=event.number, **event.facts)
        why = self.wrong(event.facts)
        if why is not None:
            self.fleet.dismiss(event.number)
            self._failed_start(event.number, why)
            return
        if len(self.scheduler.hands) >= self._wanted():
            self.fleet.dismiss(event.number)  # Late, and another has come in its place.
            return
        self._up_at = now
        self.failed_starts, self.why_not = 0, ""
        self._cards[event.number] = event.facts.get("device")
        self.scheduler.join(event.number, now)
        self._ready[event.number] = None

    def _miss(self, event: Lost, now: float) -> None:
        if event.number in self.coming:
            del self.coming[event.number]
            if event.cause != "node":
                self._failed_start(event.number, event.why)
            return
        self._up_at = now
        self._forget(event.number)
        self.scheduler.lost(event.number, event.cause, event.why)

    def _failed_start(self, number: int, why: str) -> None:
        self.scheduler.note("start_failed", worker=number, error=why)
        self.failed_starts += 1
        self.why_not = why
        self._hire_at = self.clock() + min(2.0 ** min(self.failed_starts, 16), LONGEST_BREAK)
        nobody = not self.scheduler.hands and len(self.coming) == self._late(self.clock())
        if self.failed_starts >= MAX_STARTS and nobody:
            raise RunFailed(f"A worker cannot start: {why}", "Check the machine: lmmsteer doctor")

    def _look_after(self) -> None:
        """Ask for progress, give up who makes none, see whether the cluster has grown."""
        now = self.clock()
        for hand in self.scheduler.silent(now):
            why = f"no progress for {now - hand.since:.0f} s while at {hand.stage or 'its start'}"
            self.fleet.dismiss(hand.number)
            self._up_at = now
            self._forget(hand.number)
            self.scheduler.lost(hand.number, "silent", why)
        if not self.scheduler.hands and now - self._up_at > START_SECONDS:
            why = self.why_not or "the cluster has no free device"
            raise RunFailed(
                f"No worker came up in {START_SECONDS:.0f} s: {why}.",
                "Check the cluster (ray status), or this machine: lmmsteer doctor",
            )
        for number in [n for n, since in self.coming.items() if now - since > START_SECONDS]:
            self.scheduler.note("start_failed", worker=number, error="it never came up")
            del self.coming[number]
            self.fleet.dismiss(number)  # Another is hired for it; word of it may have been lost.
        if now - self._looked >= min(LOOK_SECONDS, self.scheduler.deadline / 4):
            self._looked = now
            self._room = self.fleet.room()
            for hand in self.scheduler.hands.values():
                if hand.open:
                    self.fleet.ask(hand.number)

    def _forget(self, number: int) -> None:
        self._ready.pop(number, None)
        self._idle.pop(number, None)

    def _note_done(self, event: Answered) -> None:
        call, report = event.call, event.report
        if call.item is None or call.kind == "probe" or report.failure is not None:
            return
        facts = {
            "rows": report.rows,
            "failed": report.failed,
            "seconds": round(report.seconds, 3),
            "created": report.created,
            "new_tokens": report.new_tokens,
            "model": call.model.name,
            "device": self._cards.get(event.number),
        }
        if report.memory is not None:
            facts["memory"] = report.memory
        if report.engine:
            facts["engine"] = report.engine
        place = {"cell": call.item.label, "part": call.item.part, "worker": event.number}
        self.scheduler.note("done", **place, **facts)
