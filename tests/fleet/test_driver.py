"""The loop's decisions, on a stand-in for Ray whose workers die, fail and answer as told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmmsteer.config import ClusterConfig, DeviceConfig, EngineConfig, SamplingConfig
from lmmsteer.fleet import cluster
from lmmsteer.fleet.driver import Driver, Failure, Item, Log
from lmmsteer.fleet.task import MethodSpec, ModelSpec, Report, Task
from lmmsteer.store import LocalStore


class Died(Exception):
    """What Ray raises for a dead actor."""


@dataclass(eq=False)
class Ref:
    """A call that is answered when it is asked for."""

    actor: Actor
    answer: Callable[[], Any]


@dataclass(eq=False)
class Actor:
    """A worker: answers by `behave(worker number, task, part)`, or dies for good."""

    number: int
    behave: Callable[[int, Task, str], Report]
    dead: bool = False
    model: ModelSpec | None = None
    calls: list[str] = field(default_factory=list)

    @property
    def describe(self) -> Any:
        return SimpleNamespace(remote=lambda: Ref(self, lambda: {"pid": self.number}))

    @property
    def run(self) -> Any:
        return SimpleNamespace(remote=lambda task, part: Ref(self, lambda: self._run(task, part)))

    def _run(self, task: Task, part: str) -> Report:
        if self.dead:
            raise Died("The actor died: cause: killed")
        self.calls.append(part)
        loads = () if task.model == self.model else (task.model.name,)
        self.model = task.model
        try:
            report = self.behave(self.number, task, part)
        except Died:
            self.dead = True
            raise
        return Report(report.rows, report.failed, loads=loads, failure=report.failure, error="e")


class FakeRay:
    """The few calls that the driver makes."""

    exceptions = SimpleNamespace(RayError=Died, GetTimeoutError=TimeoutError)

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        return [r.answer() for r in ref] if isinstance(ref, list) else ref.answer()

    def wait(self, refs: list[Ref], num_returns: int, timeout: float) -> Any:
        return refs[:1], refs[1:]

    def kill(self, actor: Actor) -> None:
        actor.dead = True


Fleet = Callable[..., tuple[list[Failure], list[Actor], list[tuple[str, str]]]]


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fleet:
    """Run items on workers that behave as told: failures, workers, what was reported."""

    def run(items: list[Item], behave: Any, workers: int = 2) -> Any:
        actors: list[Actor] = []
        reported: list[tuple[str, str]] = []

        def hire(ray: Any, device: Any) -> Actor:
            actors.append(Actor(len(actors) + 1, behave))
            return actors[-1]

        @contextmanager
        def joined(*_: Any) -> Any:
            yield FakeRay()

        monkeypatch.setattr(cluster, "actor", hire)
        monkeypatch.setattr(cluster, "joined", joined)
        log = Log(LocalStore(tmp_path), "generate")
        driver = Driver(
            ClusterConfig(workers=workers),
            DeviceConfig(),
            log,
            lambda item, report: reported.append((item.part, report.failure or "done")),
        )
        return driver.run(items), actors, reported

    return run


def items(*models: str, shards: int = 4) -> list[Item]:
    found = []
    for name in models:
        model = ModelSpec(name, f"/{name}", None, "auto", "auto", name)
        method = MethodSpec("unsteered", {}, {})
        task = Task("out", name, "d", model, method, SamplingConfig(), EngineConfig(), "f")
        found += [Item(task, f"{name}-{n}", 15, name) for n in range(shards)]
    return found


def done(_: int, __: Task, ___: str) -> Report:
    return Report(15)


def test_every_item_is_done_once_and_each_worker_loads_each_model_at_most_once(
    fleet: Fleet,
) -> None:
    work = items("a", "b", "c")
    failures, actors, reported = fleet(work, done)
    assert failures == []
    assert sorted(part for part, _ in reported) == sorted(item.part for item in work)
    for actor in actors:
        order = [part[0] for part in actor.calls]
        assert order == sorted(order)


def test_a_dead_worker_is_replaced_and_what_it_held_is_sent_again(fleet: Fleet) -> None:
    died: list[str] = []

    def once(_: int, __: Task, part: str) -> Report:
        if part == "a-2" and not died:
            died.append(part)
            raise Died
        return Report(15)

    failures, actors, reported = fleet(items("a"), once)
    assert failures == []
    assert len(actors) == 3
    assert sorted(part for part, _ in reported) == ["a-0", "a-1", "a-2", "a-3"]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_shard_that_kills_every_worker_is_given_up_after_three_and_the_rest_is_done(
    workers: int, fleet: Fleet
) -> None:
    def poison(_: int, __: Task, part: str) -> Report:
        if part == "a-1":
            raise Died
        return Report(15)

    failures, actors, reported = fleet(items("a", shards=8), poison, workers)
    assert [failure.part for failure in failures] == ["a-1"]
    assert "died 3 times" in failures[0].error
    assert len(actors) <= workers + 3
    assert [part for part, state in reported if state == "done"].count("a-1") == 0
    assert len(reported) == 8


def test_a_model_that_cannot_be_loaded_stops_its_cells_at_once_and_no_other(fleet: Fleet) -> None:
    def broken(_: int, task: Task, part: str) -> Report:
        return Report(failure="model") if task.model.name == "a" else Report(15)

    failures, actors, _ = fleet(items("a", "b", shards=6), broken, 1)
    assert {failure.label for failure in failures} == {"a"}
    assert len(failures) == 6
    tried = [part for actor in actors for part in actor.calls if part.startswith("a")]
    assert len(tried) <= 2
    assert sum(part.startswith("b") for actor in actors for part in actor.calls) == 6


def test_a_shard_that_fails_is_named_and_not_repeated(fleet: Fleet) -> None:
    def fails(_: int, __: Task, part: str) -> Report:
        return Report(failure="shard") if part == "a-0" else Report(15)

    failures, actors, _ = fleet(items("a"), fails)
    assert [failure.part for failure in failures] == ["a-0"]
    assert sum(actor.calls.count("a-0") for actor in actors) == 1
