"""A fleet of simulated processes, each with the production Worker in it, and their messages."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lmmsteer.fleet.driver import Answered, Beat, Event, Lost, Up
from lmmsteer.fleet.task import Report
from lmmsteer.fleet.work import Call, Cause
from lmmsteer.fleet.worker import Worker
from lmmsteer.schema import Request
from tests.simulation.disk import SimDisk
from tests.simulation.model import Engine, Shown
from tests.simulation.process import Dead, Process, Violation
from tests.simulation.projects import STACK
from tests.simulation.schedule import Fault
from tests.simulation.store import SimStore

if TYPE_CHECKING:
    from tests.simulation.world import World

START = 0.3  # Seconds until a worker is up.
LOAD = 0.3
ROW = 0.1
HEEDED = 1.5  # Until a driver that was asked to stop does so.
NOTICED = 0.2  # Until a death is known.


class Failing(Exception):
    """What a model's code may raise."""


class SimWorker(Process):
    """A worker's process. slow: how many times longer it takes for everything."""

    def __init__(self, world: World, fleet: SimFleet, number: int, host: str) -> None:
        super().__init__(world, f"{fleet.driver.name}.{number}", host, "read")
        self.fleet, self.number = fleet, number
        self.calls: deque[Call] = deque()
        self.calling: Call | None = None
        self.slow = 1.0
        self.up = self.hung = self.doomed = self.engaged = False
        self.engine: Engine | None = None
        self.store = SimStore(world.root, SimDisk(world, self))

    def life(self) -> None:
        """Come up, say so, then do call after call until it is killed."""
        try:
            self._begin()
            while True:
                while not self.calls:
                    self.sleep(None)
                self.calling = call = self.calls.popleft()
                report = self._answer(call)
                self.calling = None
                if self.doomed:
                    self.kill()
                self.check()
                self.fleet.deliver(Answered(self.number, call, report))
        except Dead:
            self.world.gone(self)

    def _begin(self) -> None:
        fault = self.world.befalls("start")
        wrong = fault.do if fault is not None else ""
        if self.world.is_bad(self.host):
            wrong = self.world.schedule.bad_host
        if fault is not None and wrong == "slow":
            self.slow = fault.much
        self.sleep(START / 2 if wrong == "lost" else START)
        if wrong == "lost":
            self.world.kill(self)
            raise Dead
        if wrong == "never":
            self.sleep(None)
        self.actor = Worker("cpu", 1, lambda: self.host)
        facts = self.actor.describe()
        facts["stack"] = {**STACK, "torch": "3"} if wrong == "stack" else STACK
        self.up = True
        self.fleet.deliver(Up(self.number, facts))

    def _answer(self, call: Call) -> Report:
        """As Ray calls an actor's method; what it raises is a failed shard."""
        self.world.say(self, f"begins {call.kind} {call.item.part if call.item else ''}")
        try:
            if call.item is None:
                return self.actor.load(call.model)
            task: Any = call.item.task
            shard = (task, call.item.part, call.item.digests)
            if call.kind == "probe":
                assert call.row is not None
                return self.actor.probe(*shard, call.row)
            return self.actor.run(*shard, dict(call.excluded))
        except Exception as error:
            return Report(failure="shard", error=f"{type(error).__name__}: {error}")

    # What the production worker asks for

    def open_engine(self) -> Engine:
        self.engine = Engine(self)
        return self.engine

    def load(self, model: str) -> None:
        self.sleep(LOAD * self.slow)
        fault = self.world.befalls("load")
        wrong = fault.do if fault is not None else ""
        if model == "m0" and self.world.schedule.wrong_model:
            wrong = self.world.schedule.wrong_model
        self._suffer(wrong, 60.0)

    def compute(self, requests: Sequence[Request], shown: Shown) -> None:
        """Take a row's time for each row; at one that is poison, or has a fault, suffer it."""
        assert self.engine is not None
        self.engine.stats.frozen = None
        self.fleet.begun += self.calling is not None and self.calling.kind == "shard"
        for number, _ in enumerate(requests):
            fault = self.world.befalls("row")
            befell = [(fault.do, fault.much)] if fault is not None else []
            poison = self.world.poison(requests, number, shown)
            for wrong, much in [*befell, *([(poison, 60.0)] if poison else [])]:
                self.sleep(ROW * (number + 1) * self.slow)
                self.world.say(self, f"row {number}: {wrong}")
                self.engine.stats.frozen = int(self.world.now)  # Until a row is answered again.
                self._suffer(wrong, much)
        self.sleep(ROW * len(requests) * self.slow)
        self.engine.stats.frozen = int(self.world.now)

    def _suffer(self, wrong: str, much: float) -> None:
        if wrong in ("kill", "kills"):
            self.world.kill(self)
        elif wrong == "node":
            self.world.host_down(self.host, 5.0)
        elif wrong in ("hang", "hangs"):
            self.hung = True
            if self.engine is not None:
                self.engine.stats.frozen = 0
            while True:
                self.sleep(None)
        elif wrong == "stop":
            self.stop(much)
        elif wrong in ("fail", "fails"):
            raise Failing("the model is not what it says")
        self.check()


class SimFleet:
    """Workers of one driver, on the hosts that are up. Messages may be lost, late or doubled."""

    def __init__(self, world: World, driver: Any) -> None:
        self.world, self.driver = world, driver
        self.workers: dict[int, SimWorker] = {}
        self.hired: list[SimWorker] = []
        self.wanted: list[int] = []
        self.inbox: list[Event] = []
        self.alone: dict[int, tuple[str, str, int]] = {}
        self.deaths = self.begun = 0
        self.sent: Counter[tuple[str, str]] = Counter()
        self._waiting = False
        self._held: Event | None = None

    # The protocol of a fleet

    def room(self) -> int:
        return self.world.room()

    def hire(self, number: int) -> None:
        self.wanted.append(number)
        self.world.place_workers()

    def send(self, number: int, call: Call) -> None:
        if self.driver.asked and self.world.now > self.driver.asked_at + HEEDED:
            raise Violation(
                f"P19 {self.driver.name} sends a {call.kind} after it was asked to stop"
            )
        if call.kind == "shard" and call.item is not None:
            self.sent[call.item.folder, call.item.part] += 1
        worker = self.workers.get(number)
        if (probed := _probed(call)) is not None:
            self.alone[number] = probed
        if worker is None or worker.dead:
            return  # Lost is on its way.
        worker.engaged = True
        worker.calls.append(call)
        if worker.fiber is not None and worker.calling is None and not worker.stopped:
            self.world.turns.wake(worker.fiber, self.world.now)

    def ask(self, number: int) -> None:
        worker = self.workers.get(number)
        if worker is None or worker.dead or worker.stopped or not worker.up:
            return
        self.deliver(Beat(number, *worker.actor.pulse()))

    def dismiss(self, number: int) -> None:
        """It may be out of reach: then it goes on, and nobody listens. Or it has no place yet."""
        self.wanted = [other for other in self.wanted if other != number]
        worker = self.workers.pop(number, None)
        self._ended(number, worker, "silent")
        if worker is not None:
            self.world.end(worker)

    def events(self, seconds: float) -> Sequence[Event]:
        if self.driver.halt:
            much, self.driver.halt = self.driver.halt, 0.0
            self.driver.stop(much)
        if not self.inbox:
            self._waiting = True
            self.driver.sleep(seconds)
            self._waiting = False
        self.driver.check()
        found, self.inbox = self.inbox, []
        return found

    # The way of a message

    def deliver(self, event: Event) -> None:
        """An event is on its way to the driver."""
        fault = None if isinstance(event, Beat) else self.world.befalls("message")
        if fault is None:
            self._arrive(event)
        elif fault.do in ("delay", "double", "swap"):
            self._late(event, fault)

    def _late(self, event: Event, fault: Fault) -> None:
        if fault.do == "double":
            self._arrive(event)
        seconds = 0.3 if fault.do == "swap" else fault.much
        self.world.turns.at(self.world.now + seconds, lambda: self._arrive(event))

    def _arrive(self, event: Event) -> None:
        """Into the driver's hands; also what comes late from a worker that was dismissed."""
        if self.driver.over:
            return
        if isinstance(event, Lost) and (worker := self.workers.pop(event.number, None)) is not None:
            self._ended(event.number, worker, event.cause)
        elif isinstance(event, Answered) and self.alone.get(event.number) == _probed(event.call):
            self.alone.pop(
                event.number, None
            )  # Said twice, it may come when the next row is at work.
        self.inbox.append(event)
        if self._waiting and self.driver.fiber is not None:
            self.world.turns.wake(self.driver.fiber, self.world.now)

    def lose(self, worker: SimWorker, cause: Cause) -> None:
        """A worker's process has ended; the driver hears of it a little later."""
        if self.workers.get(worker.number) is worker:
            event = Lost(worker.number, f"worker {worker.number} ended", cause)
            self.world.turns.at(self.world.now + NOTICED, lambda: self.deliver(event))

    def _ended(self, number: int, worker: SimWorker | None, cause: Cause) -> None:
        """deaths: of workers that had something to do; those on a bad host never come so far."""
        alone = self.alone.pop(number, None)
        if cause != "node" and worker is not None and worker.engaged:
            self.deaths += 1
            if alone is not None:
                self.world.ended_alone.add(alone)


def _probed(call: Call) -> tuple[str, str, int] | None:
    """The row that a call is about, where it is about a row alone."""
    if call.kind != "probe" or call.item is None or call.row is None:
        return None
    return call.item.folder, call.item.part, call.row
