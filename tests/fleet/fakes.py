"""A fleet without Ray: workers answer, die, hang and fail to come up as told; time is a number."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmmsteer.config import EngineConfig, SamplingConfig
from lmmsteer.fleet.driver import Answered, Beat, Driver, Event, Lost, Up
from lmmsteer.fleet.scheduler import Scheduler
from lmmsteer.fleet.task import FitTask, MethodSpec, ModelSpec, Report, Task
from lmmsteer.fleet.work import Budget, Call, Cause, Item, lots


class Dies(Exception):
    """Raised by a worker's behaviour: its process is gone."""

    def __init__(self, cause: Cause = "died") -> None:
        self.cause: Cause = cause


class Hangs(Exception):
    """Raised by a worker's behaviour: it neither answers nor ends."""


Behaviour = Callable[[int, Call], Report]


def well(worker: int, call: Call) -> Report:
    """Everything is answered, ten rows a shard."""
    return Report(rows=call.item.rows if call.item is not None else 0)


@dataclass
class FakeFleet:
    """Each worker works off its calls one after the other, a call in a second of fake time."""

    behave: Behaviour = well
    places: int = 2
    starts: Callable[[int], str | None] = lambda number: None  # why a worker cannot start
    now: float = 0.0
    calls: list[tuple[int, Call]] = field(default_factory=list)
    dismissed: list[int] = field(default_factory=list)
    happened: deque[Event] = field(default_factory=deque)
    held: dict[int, deque[Call]] = field(default_factory=dict)

    def clock(self) -> float:
        return self.now

    def room(self) -> int:
        return self.places

    def hire(self, number: int) -> None:
        why = self.starts(number)
        if why is None:
            self.held[number] = deque()
            self.happened.append(Up(number, {"device": "cpu"}))
        else:
            self.happened.append(Lost(number, why))

    def send(self, number: int, call: Call) -> None:
        self.held[number].append(call)

    def ask(self, number: int) -> None:
        self.happened.append(Beat(number, "generate", 7))

    def dismiss(self, number: int) -> None:
        self.dismissed.append(number)
        self.held.pop(number, None)

    def events(self, seconds: float) -> Sequence[Event]:
        if not self.happened:
            for number in list(self.held):
                self._work(number)
            self.now += 1.0
        found = list(self.happened)
        self.happened.clear()
        return found

    def _work(self, number: int) -> None:
        if not self.held[number]:
            return
        call = self.held[number][0]
        try:
            self.calls.append((number, call))
            report = self.behave(number, call)
        except Hangs:
            self.calls.pop()
            return
        except Dies as death:
            del self.held[number]
            self.happened.append(Lost(number, "killed", death.cause))
            return
        self.held[number].popleft()
        self.happened.append(Answered(number, call, report))

    def parts(self, kind: str = "shard") -> list[str]:
        """The shards that workers were asked for, in the order of their turn."""
        return [c.item.part for _, c in self.calls if c.kind == kind and c.item is not None]


@dataclass
class Ran:
    """What came of a run."""

    scheduler: Scheduler
    fleet: FakeFleet
    events: list[tuple[str, dict[str, Any]]]
    reports: dict[str, Report]

    def noted(self, event: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self.events if name == event]


def play(
    items: list[Item],
    behave: Behaviour = well,
    workers: int = 2,
    budgets: dict[str, Budget] | None = None,
    deadline: float = 60.0,
    **about: Any,
) -> Ran:
    """Run items on a fake fleet to the end."""
    fleet = FakeFleet(behave, workers, **about)
    events: list[tuple[str, dict[str, Any]]] = []
    reports: dict[str, Report] = {}

    def note(event: str, **facts: Any) -> None:
        events.append((event, facts))

    def report(item: Item, came: Report) -> None:
        name = item.part or item.label
        assert name not in reports, "a piece of work is reported once"
        reports[name] = came

    scheduler = Scheduler(lots(items), note, report, budgets or {}, deadline)
    Driver(scheduler, fleet, workers, clock=fleet.clock).run()
    return Ran(scheduler, fleet, events, reports)


def model(name: str) -> ModelSpec:
    return ModelSpec(name, f"/{name}", None, "auto", "auto", name)


def shards(*models: str, count: int = 4, rows: int = 10) -> list[Item]:
    """`count` shards of a cell for each model: a-0, a-1 ..."""
    method = MethodSpec("unsteered", {}, {})
    found = []
    for name in models:
        task = Task("out", name, "d", model(name), method, SamplingConfig(), EngineConfig(), "f")
        found += [Item(task, f"{name}-{n}", rows, name) for n in range(count)]
    return found


def fit(name: str) -> Item:
    """A fit of a model called `a`."""
    method = MethodSpec("steered_dataset", {}, {})
    task = FitTask("out", f"{name}.safetensors", "d", ("p",), model("a"), method, EngineConfig())
    return Item(task, "", 1, name)
