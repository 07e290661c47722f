"""The driver's loop on a fleet without Ray: who is hired, sent to, asked and given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lmmsteer.errors import RunFailed
from lmmsteer.fleet.driver import LONGEST_BREAK, MAX_STARTS, START_SECONDS, Driver, Up
from lmmsteer.fleet.scheduler import Scheduler
from lmmsteer.fleet.task import Report
from lmmsteer.fleet.work import Call, lots
from tests.fleet.fakes import Dies, FakeFleet, Hangs, play, shards, well


def quiet(*_: Any, **__: Any) -> None: ...


def test_no_more_workers_are_hired_than_there_is_work_for() -> None:
    ran = play(shards("a", count=2), workers=5)
    assert len(ran.noted("worker")) == 2


def test_each_worker_gets_one_shard_before_any_gets_a_second() -> None:
    ran = play(shards("a", count=4), workers=3)
    first = [number for number, call in ran.fleet.calls if call.kind == "shard"][:3]
    assert sorted(first) == [1, 2, 3]


def test_a_dead_worker_is_replaced() -> None:
    def once(number: int, call: Call) -> Report:
        if number == 1 and call.kind == "shard":
            raise Dies
        return well(number, call)

    ran = play(shards("a"), once)
    assert len(ran.noted("worker")) == 3
    assert sorted(ran.reports) == ["a-0", "a-1", "a-2", "a-3"]


def test_a_worker_that_makes_no_progress_is_given_up_after_the_deadline_and_not_before() -> None:
    def once(number: int, call: Call) -> Report:
        if number == 1 and call.kind == "shard":
            raise Hangs
        return well(number, call)

    ran = play(shards("a", count=8), once, workers=1, deadline=60.0)
    assert ran.fleet.dismissed == [1]
    assert [death["cause"] for death in ran.noted("death")] == ["silent"]
    assert 60 < ran.fleet.now < 60 + 15 + 12  # the deadline, a look, and a second for each call
    assert len(ran.reports) == 8


def test_a_worker_that_makes_slow_progress_is_left_in_peace() -> None:
    turns: dict[Call, int] = {}
    fleet = FakeFleet(places=1)

    def slow(number: int, call: Call) -> Report:
        turns[call] = turns.get(call, 0) + 1
        if call.kind == "shard" and turns[call] < 200:
            raise Hangs
        return well(number, call)

    fleet.behave = slow
    asked = fleet.ask
    count = iter(range(10**6))

    def ask(number: int) -> None:
        asked(number)
        beat = fleet.happened.pop()
        fleet.happened.append(type(beat)(number, "generate", next(count)))  # type: ignore[call-arg]

    fleet.ask = ask  # type: ignore[method-assign]
    scheduler = Scheduler(lots(shards("a", count=1)), quiet, quiet, deadline=60.0)
    Driver(scheduler, fleet, 1, clock=fleet.clock).run()
    assert fleet.dismissed == []
    assert fleet.now > 190
    assert scheduler.failures == []


def test_workers_that_cannot_start_end_the_run_with_their_reason() -> None:
    with pytest.raises(RunFailed, match="no such library"):
        play(shards("a"), starts=lambda number: "no such library")


def test_a_worker_that_cannot_start_is_no_matter_while_others_can() -> None:
    ran = play(shards("a", count=9), starts=lambda n: "bad node" if n == 1 else None)
    assert len(ran.reports) == 9
    assert [facts["worker"] for facts in ran.noted("start_failed")] == [1]


def test_a_worker_of_another_stack_does_not_join() -> None:
    fleet = FakeFleet(places=1)
    scheduler = Scheduler(lots(shards("a", count=1)), quiet, quiet)
    wrong: Callable[[dict[str, Any]], str | None] = lambda facts: "torch 1, not 2"  # noqa: E731
    with pytest.raises(RunFailed, match="torch 1, not 2"):
        Driver(scheduler, fleet, 1, wrong, fleet.clock).run()
    assert fleet.dismissed == list(range(1, MAX_STARTS + 1))
    assert fleet.calls == []


def test_a_cluster_that_grows_gets_more_workers() -> None:
    fleet = FakeFleet(places=1)
    ups: list[int] = []

    def note(event: str, **facts: Any) -> None:
        if event == "worker":
            ups.append(facts["worker"])
            fleet.places = 3

    scheduler = Scheduler(lots(shards("a", count=40)), note, quiet)
    Driver(scheduler, fleet, None, clock=fleet.clock).run()
    assert ups == [1, 2, 3]


def test_no_worker_for_five_minutes_ends_the_run() -> None:
    fleet = FakeFleet(places=1)
    fleet.hire = lambda number: None  # type: ignore[method-assign]
    scheduler = Scheduler(lots(shards("a")), quiet, quiet)
    with pytest.raises(RunFailed, match="No worker came up"):
        Driver(scheduler, fleet, 1, clock=fleet.clock).run()
    assert 300 < fleet.now < 320


def test_a_worker_that_never_comes_up_does_not_keep_others_from_the_work() -> None:
    fleet = FakeFleet(places=1)
    hire, hired = fleet.hire, []

    def some_come(number: int) -> None:
        hired.append(number)
        if number > 1:
            hire(number)

    fleet.hire = some_come  # type: ignore[method-assign]
    scheduler = Scheduler(lots(shards("a", count=1)), quiet, quiet)
    Driver(scheduler, fleet, 1, clock=fleet.clock).run()
    assert hired == [1, 2]
    assert START_SECONDS / 4 < fleet.now < START_SECONDS / 4 + 10


def test_who_comes_late_finds_the_place_taken_and_who_never_comes_is_given_up() -> None:
    fleet = FakeFleet(lambda worker, call: slowly(fleet, worker, call), places=1)
    hire = fleet.hire
    fleet.hire = lambda number: hire(number) if number == 2 else None  # type: ignore[method-assign]
    events: list[tuple[str, Any]] = []
    note = lambda event, **facts: events.append((event, facts.get("worker")))  # noqa: E731
    scheduler = Scheduler(lots(shards("a", count=6)), note, quiet)
    driver = Driver(scheduler, fleet, 1, clock=fleet.clock)
    driver.run()
    assert ("start_failed", 1) in events
    assert fleet.dismissed[:1] == [1]
    driver.coming[7] = fleet.now
    driver._take(Up(7, {}))
    assert fleet.dismissed[-1] == 7
    assert list(scheduler.hands) == [2]


def slowly(fleet: FakeFleet, worker: int, call: Call) -> Report:
    fleet.now += 55
    return well(worker, call)


def test_only_unfit_workers_for_five_minutes_end_the_run_with_why_they_are_unfit() -> None:
    fleet = FakeFleet(places=2)
    hire = fleet.hire
    fleet.hire = lambda number: hire(number) if number % 2 else None  # type: ignore[method-assign]
    scheduler = Scheduler(lots(shards("a", count=9)), quiet, quiet)
    with pytest.raises(RunFailed, match="torch 1, not 2"):
        Driver(scheduler, fleet, 2, lambda facts: "torch 1, not 2", fleet.clock).run()
    assert fleet.now < 320


def test_a_thousand_failed_starts_are_no_error_of_ours() -> None:
    fleet = FakeFleet(lambda worker, call: slowly(fleet, worker, call), places=2)
    scheduler = Scheduler(lots(shards("a", count=9)), quiet, quiet)
    driver = Driver(scheduler, fleet, 2, clock=fleet.clock)
    driver.failed_starts = 5000
    driver.scheduler.join(1, 0.0)
    driver._failed_start(2, "bad node")
    assert driver._hire_at == LONGEST_BREAK


def test_a_drain_ends_with_the_open_shards_and_calls_nothing_a_failure() -> None:
    fleet = FakeFleet(places=2)
    done: list[str] = []

    def report(item: Any, came: Report) -> None:
        done.append(item.part)
        if len(done) == 1:
            driver.drain(15.0)

    scheduler = Scheduler(lots(shards("a", count=50)), quiet, report)
    driver = Driver(scheduler, fleet, 2, clock=fleet.clock)
    driver.run()
    assert 1 < len(done) <= 4
    assert scheduler.failures == []


def test_a_drain_does_not_wait_for_a_shard_that_hangs() -> None:
    fleet = FakeFleet(places=2)

    def behave(number: int, call: Call) -> Report:
        if call.item is not None and call.item.part == "a-0":
            raise Hangs
        return well(number, call)

    fleet.behave = behave
    scheduler = Scheduler(
        lots(shards("a", count=50)), quiet, lambda item, came: driver.drain(15.0), deadline=600
    )
    driver = Driver(scheduler, fleet, 2, clock=fleet.clock)
    driver.run()
    assert fleet.now < 30


def test_what_a_given_up_worker_says_later_is_not_heard() -> None:
    fleet = FakeFleet(places=1)
    scheduler = Scheduler(lots(shards("a", count=1)), quiet, quiet)
    driver = Driver(scheduler, fleet, 1, clock=fleet.clock)
    fleet.happened.append(Up(99, {}))
    driver.run()
    assert 99 not in scheduler.hands


def test_the_log_says_the_peak_of_memory_where_the_worker_knows_it() -> None:
    ran = play(shards("a", count=1), lambda n, call: replace(well(n, call), memory=7))
    assert [facts["memory"] for facts in ran.noted("done")] == [7]
    assert "memory" not in play(shards("a", count=1)).noted("done")[0]
