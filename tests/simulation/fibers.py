"""Many programs that take turns, in one process and in an order that is always the same.

Each program is a thread, and exactly one thread runs at a time: whoever waits hands the baton to
whoever is next by the simulated clock. So production code runs as it is, and may be stopped inside
any call for as long as one likes.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from typing import Any

Task = Callable[[], None]


class Endless(Exception):
    """More happened than any healthy run needs."""


class Over(BaseException):
    """Nothing happens any more."""


class Fiber:
    """A thread that waits for its turn. Used again for the next program when one has ended."""

    def __init__(self) -> None:
        self.baton = threading.Lock()
        self.baton.acquire()
        self.task: Task | None = None
        self.turns: Turns | None = None
        self.wake = 0  # Which of its alarms is the valid one.
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self.baton.acquire()
            task, turns = self.task, self.turns
            assert task is not None
            assert turns is not None
            try:
                task()
            except BaseException as error:
                turns.broken = turns.broken or error
            self.task = self.turns = None
            turns.ended(self)


_idle: list[Fiber] = []


class Turns:
    """The simulated clock, what is to happen, and whose turn it is. `now` is in seconds."""

    def __init__(self, most: int) -> None:
        self.now = 0.0
        self.steps = 0
        self.most = most
        self.broken: BaseException | None = None
        self.alive: dict[Fiber, None] = {}
        self._heap: list[tuple[float, int, Callable[[], Any] | None, Fiber | None, int]] = []
        self._count = 0
        self._main = threading.Lock()
        self._main.acquire()
        self._current: Fiber | None = None

    @property
    def current(self) -> Fiber:
        assert self._current is not None
        return self._current

    def at(self, when: float, happen: Callable[[], Any]) -> None:
        """Something short that happens at a time; it must not wait."""
        self._push(when, happen, None, 0)

    def start(self, task: Task, when: float) -> Fiber:
        """A program that begins at a time; it may wait."""
        fiber = _idle.pop() if _idle else Fiber()
        fiber.task, fiber.turns = task, self
        self.alive[fiber] = None
        self.wake(fiber, when)
        return fiber

    def wake(self, fiber: Fiber, when: float) -> None:
        """Its turn comes then. An earlier alarm of the same fiber is forgotten."""
        fiber.wake += 1
        self._push(when, None, fiber, fiber.wake)

    def sleep(self, until: float | None) -> None:
        """The running program waits, at most so long; `wake` may end it sooner."""
        fiber = self.current
        if until is None:
            fiber.wake += 1
        else:
            self.wake(fiber, until)
        follower = self._next()
        if follower is not fiber:
            self._hand(follower)
            fiber.baton.acquire()

    def run(self) -> None:
        """Until nothing more is to happen."""
        follower = self._next()
        if follower is not None:
            self._hand(follower)
            self._main.acquire()
        if self.broken is not None:
            raise self.broken

    def close(self) -> None:
        """End the programs that still wait: each must raise when its `sleep` returns."""
        self.broken = self.broken or Over()
        for fiber in list(self.alive):
            self._hand(fiber)
            self._main.acquire()

    def ended(self, fiber: Fiber) -> None:
        """A program has ended: its thread hands the baton on and is free for another."""
        del self.alive[fiber]
        _idle.append(fiber)
        self._hand(self._next())

    def _push(self, when: float, happen: Any, fiber: Fiber | None, alarm: int) -> None:
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, happen, fiber, alarm))

    def _next(self) -> Fiber | None:
        """Let happen what happens, up to the next turn of a program; None when all is over."""
        heap = self._heap
        try:
            while heap and self.broken is None:
                when, _, happen, fiber, alarm = heapq.heappop(heap)
                if fiber is not None and (alarm != fiber.wake or fiber not in self.alive):
                    continue
                self.now = max(self.now, when)
                self.steps += 1
                if self.steps > self.most:
                    raise Endless(f"no end after {self.most} steps, at {self.now:.0f} s")
                if fiber is not None:
                    return fiber
                happen()  # type: ignore[misc]
        except BaseException as error:
            self.broken = error
        return None

    def _hand(self, fiber: Fiber | None) -> None:
        self._current = fiber
        (self._main if fiber is None else fiber.baton).release()
