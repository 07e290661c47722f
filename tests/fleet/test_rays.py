"""From Ray's futures to the driver's events, on a Ray that is played by a few lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from lmmsteer.device import Device
from lmmsteer.errors import RunFailed
from lmmsteer.fleet import lookout
from lmmsteer.fleet.driver import Answered, Event, Lost, Up
from lmmsteer.fleet.rays import RayFleet
from lmmsteer.fleet.task import ModelSpec, Report
from lmmsteer.fleet.work import Call

LOAD = Call("load", ModelSpec("m", "m", None, "auto", "auto", ""))
DIED = "The actor is dead because its worker process has died. Check raylet.out."
NODE = "The actor died because its node has died. Node Id: 77"


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class RayActorError(RayError):
    pass


@dataclass(frozen=True, eq=False)
class Ref:
    """What a call returns at once."""

    ended: Future[Any]

    def future(self) -> Future[Any]:
        return self.ended


class Played:
    """A class of actors, a handle, a method of it: `remote` makes an actor, or a call."""

    def __init__(
        self, futures: list[Future[Any]], asked: Callable[[], None], actors: bool = False
    ) -> None:
        self._futures, self._asked, self._actors = futures, asked, actors

    def __getattr__(self, name: str) -> Played:
        return Played(self._futures, self._asked)

    def options(self, **_: Any) -> Played:
        return self

    def remote(self, *_: Any) -> Any:
        self._asked()
        if self._actors:
            return Played(self._futures, self._asked)
        self._futures.append(Future())
        return Ref(self._futures[-1])


class Ray:
    """A cluster of one node. `silent`: its control store answers nobody."""

    exceptions = SimpleNamespace(RayTaskError=RayTaskError, RayActorError=RayActorError)

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self.askers: set[threading.Thread] = set()
        self.killed = 0
        self.alive = True
        self.silent = threading.Event()

    def remote(self, **_: Any) -> Callable[[Any], Any]:
        """As a decorator; what it makes of a class has options and makes actors."""
        return lambda kind: Played(self.futures, self._asked, actors=True)

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "home")

    def cluster_resources(self) -> dict[str, float]:
        self._asked()
        while self.silent.is_set():
            time.sleep(0.001)
        return {"CPU": 4.0}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": "home", "Alive": self.alive}]

    def kill(self, handle: Any) -> None:
        self._asked()
        self.killed += 1

    def _asked(self) -> None:
        self.askers.add(threading.current_thread())


@pytest.fixture
def ray() -> Ray:
    return Ray()


@pytest.fixture
def fleet(ray: Ray) -> RayFleet:
    made = RayFleet(ray, object, Device("cpu"), 2, ())
    made.hire(1)
    _from_elsewhere(lambda: ray.futures[0].set_result({"node": "home", "pid": 0}))
    assert made.events(1) == [Up(1, {"node": "home", "pid": 0})]
    made.send(1, LOAD)
    return made


def _from_elsewhere(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return thread


def _told(fleet: RayFleet, ray: Ray, error: Exception) -> Event:
    _from_elsewhere(lambda: ray.futures[1].set_exception(error))
    (event,) = fleet.events(1)
    return event


def test_there_is_room_for_a_worker_on_each_so_many_cores(fleet: RayFleet) -> None:
    assert fleet.room() == 2


def test_nothing_is_asked_of_ray_in_the_thread_that_brings_its_answers(
    ray: Ray, fleet: RayFleet
) -> None:
    thread = _from_elsewhere(lambda: ray.futures[1].set_exception(RayActorError(DIED)))
    fleet.events(1)
    assert thread not in ray.askers


def test_an_exception_in_a_call_is_a_failed_shard_and_the_worker_lives(
    ray: Ray, fleet: RayFleet
) -> None:
    event = _told(fleet, ray, RayTaskError("ValueError: a bad shard"))
    report = Report(failure="shard", error="ValueError: a bad shard")
    assert event == Answered(1, LOAD, report)
    assert ray.killed == 0


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RayActorError(DIED), "died"),
        (RayActorError(NODE), "node"),
        (RayError("the result is lost"), "died"),
    ],
)
def test_whatever_else_goes_wrong_is_the_workers_end(
    ray: Ray, fleet: RayFleet, error: Exception, cause: str
) -> None:
    event = _told(fleet, ray, error)
    assert isinstance(event, Lost)
    assert event.cause == cause


def test_a_worker_on_a_node_that_is_gone_is_lost_with_it_whatever_ray_says(
    ray: Ray, fleet: RayFleet
) -> None:
    ray.alive = False
    fleet.lookout.ask(1)
    event = _told(fleet, ray, RayActorError(DIED))
    assert isinstance(event, Lost)
    assert event.cause == "node"


def test_a_worker_that_was_dismissed_has_no_more_events(ray: Ray, fleet: RayFleet) -> None:
    fleet.dismiss(1)
    ray.futures[1].set_result(Report())
    assert fleet.events(0.01) == []


def test_a_silent_control_store_holds_nobody_up_and_ends_the_run_in_a_sentence(
    ray: Ray, fleet: RayFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "GONE_SECONDS", 0.05)
    monkeypatch.setattr("lmmsteer.fleet.rays.PATIENCE", 0.01)
    ray.silent.set()
    assert fleet.room() == 2
    time.sleep(0.1)
    with pytest.raises(RunFailed, match="control store has not answered"):
        fleet.events(0.01)
    ray.silent.clear()
    fleet.lookout.ask(1)
    assert fleet.events(0.01) == []


def test_without_the_node_that_it_works_through_a_driver_ends(ray: Ray, fleet: RayFleet) -> None:
    ray.alive = False
    fleet.room()
    with pytest.raises(RunFailed, match="node that this command works through is gone"):
        fleet.events(0.01)
