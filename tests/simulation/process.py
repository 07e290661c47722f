"""A program of the simulation: a driver, or a worker; on a host, alive until it is killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.fibers import Fiber
    from tests.simulation.world import World


class Dead(BaseException):
    """The program was killed: nothing it still tries has any effect."""


class Violation(BaseException):
    """A promise was broken. Its text begins with the promise's number."""


class Process:
    """step: what it is at, by which its operations on the disk are counted."""

    def __init__(self, world: World, name: str, host: str, step: str) -> None:
        self.world, self.name, self.host, self.step = world, name, host, step
        self.dead = False
        self.began = 0.0
        self.stopped = self.was_stopped = False
        self.torn = False  # It died inside a write.
        self.fiber: Fiber | None = None

    def kill(self) -> None:
        """SIGKILL: it is gone, wherever it was."""
        if not self.dead:
            self.dead = True
            self.world.say(self, "killed")
            if self.fiber is not None and self.fiber in self.world.turns.alive:
                self.world.turns.wake(self.fiber, self.world.now)

    def check(self) -> None:
        if self.dead:
            raise Dead

    def sleep(self, seconds: float | None) -> None:
        """Wait, or for ever; whoever kills it meanwhile ends it here."""
        self.world.turns.sleep(None if seconds is None else self.world.now + seconds)
        self.check()

    def stop(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT so much later: alive, and deaf until then."""
        self.world.say(self, f"stopped for {seconds:.0f} s")
        self.stopped = self.was_stopped = True
        until = self.world.now + seconds
        while self.world.now < until and not self.dead:
            self.world.turns.sleep(until)
        self.stopped = False
        self.check()
        self.world.say(self, "goes on")
