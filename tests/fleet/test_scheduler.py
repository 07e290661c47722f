"""The fleet's decisions: models, deaths, killer rows, twins, when a cell or a run is stopped."""

from __future__ import annotations

import pytest

from lmmsteer.fleet.scheduler import BREAKER_ROWS, MAX_ALIKE, MAX_LOSSES, Scheduler
from lmmsteer.fleet.task import Report
from lmmsteer.fleet.work import Budget, Call, lots
from tests.fleet.fakes import Behaviour, Dies, Hangs, Ran, fit, play, shards, well


def part(call: Call) -> str:
    return call.item.part if call.item is not None else ""


def deaths(ran: Ran) -> int:
    return len(ran.noted("death"))


def poison(*rows: tuple[str, int], cause: str = "dies") -> Behaviour:
    """Workers that end (or hang) when they are shown one of these rows, in a batch or alone."""

    def behave(number: int, call: Call) -> Report:
        shown = {(part(call), n) for n in range(call.item.rows if call.item else 0)}
        shown = {one for one in shown if one[1] not in call.excluded}
        if call.kind == "probe":
            shown = {(part(call), call.row or 0)}
        if shown & set(rows) and call.kind != "load":
            raise Hangs if cause == "hangs" else Dies
        failed = dict.fromkeys(call.excluded.values(), 1)
        return Report(rows=call.item.rows, failed=failed) if call.item else Report()

    return behave


def test_every_shard_is_done_once_and_each_worker_loads_each_model_at_most_once() -> None:
    ran = play(shards("a", "b", "c"))
    assert ran.scheduler.failures == []
    assert len(ran.reports) == 12
    for worker in (1, 2):
        loads = [c.model.name for n, c in ran.fleet.calls if n == worker and c.kind == "load"]
        assert len(loads) == len(set(loads))
        order = [part(c)[0] for n, c in ran.fleet.calls if n == worker and c.kind == "shard"]
        assert order == sorted(order)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("rows", [(0,), (9,), (3, 4), (0, 5, 9)])
def test_killer_rows_cost_their_number_and_three_deaths_and_nothing_else(
    workers: int, rows: tuple[int, ...]
) -> None:
    ran = play(shards("a", count=6), poison(*(("a-2", row) for row in rows)), workers)
    assert deaths(ran) <= len(rows) + 3
    assert ran.scheduler.failures == []
    assert len(ran.reports) == 6
    sent = [c.excluded for _, c in ran.fleet.calls if part(c) == "a-2" and c.excluded]
    assert sent
    assert all(dict(one) == dict.fromkeys(rows, "worker_died") for one in sent)
    assert [facts["row"] for facts in ran.noted("quarantine")] == list(rows)


def test_a_row_that_hangs_is_found_and_called_so() -> None:
    ran = play(shards("a", count=3), poison(("a-1", 4), cause="hangs"), workers=1)
    assert [(f["row"], f["reason"]) for f in ran.noted("quarantine")] == [(4, "row_hung")]
    assert len(ran.reports) == 3
    assert deaths(ran) == 4


def test_rows_under_suspicion_are_sent_alone_with_nothing_ahead() -> None:
    ran = play(shards("a", count=8), poison(("a-0", 1)), workers=1)
    for event, facts in ran.events:
        if event == "death" and facts["part"] == "a-0" and len(ran.noted("isolate")):
            last = facts
    assert last["parts"] == ["a-0"]


def test_a_shard_that_kills_though_no_row_of_it_does_is_given_up_and_the_rest_is_done() -> None:
    def behave(number: int, call: Call) -> Report:
        if part(call) == "a-1" and call.kind == "shard":
            raise Dies
        return well(number, call)

    ran = play(shards("a", count=5), behave)
    assert [failure.part for failure in ran.scheduler.failures] == ["a-1"]
    assert "none of its rows does alone" in ran.scheduler.failures[0].error
    assert deaths(ran) == 6
    assert sorted(ran.reports) == ["a-0", "a-2", "a-3", "a-4"]


def test_a_node_that_goes_down_is_nobodys_fault_but_not_for_ever() -> None:
    def behave(number: int, call: Call) -> Report:
        if part(call) == "a-0" and number <= 5:
            raise Dies("node")
        return well(number, call)

    ran = play(shards("a"), behave, workers=1)
    assert ran.noted("isolate") == []
    assert len(ran.reports) == 4

    def always(number: int, call: Call) -> Report:
        if part(call) == "a-0":
            raise Dies("node")
        return well(number, call)

    ran = play(shards("a", rows=2), always, workers=1)
    assert deaths(ran) <= 4 * (MAX_LOSSES + 3)
    assert len(ran.reports) >= 3


def test_a_model_that_cannot_be_loaded_stops_its_cells_at_once_and_no_other() -> None:
    def behave(number: int, call: Call) -> Report:
        if call.kind == "load" and call.model.name == "a":
            return Report(failure="model", error="no weights")
        return well(number, call)

    ran = play(shards("a", "b", count=6), behave, workers=1)
    assert [(f.label, f.count, f.error) for f in ran.scheduler.failures] == [("a", 6, "no weights")]
    assert [call.model.name for _, call in ran.fleet.calls if call.kind == "load"] == ["a", "b"]
    assert sorted(ran.reports) == [f"b-{n}" for n in range(6)]


def test_a_model_whose_loading_kills_the_worker_is_blamed_and_no_row_is() -> None:
    def behave(number: int, call: Call) -> Report:
        if call.kind == "load" and call.model.name == "a":
            raise Dies
        return well(number, call)

    ran = play(shards("a", "b"), behave, workers=1)
    assert deaths(ran) == 2
    assert [failure.label for failure in ran.scheduler.failures] == ["a"]
    assert "while they loaded a" in ran.scheduler.failures[0].error
    assert len(ran.reports) == 4


def test_a_shard_that_fails_is_named_and_not_repeated() -> None:
    def behave(number: int, call: Call) -> Report:
        if part(call) == "a-0":
            return Report(failure="shard", error="odd")
        return well(number, call)

    ran = play(shards("a"), behave)
    assert [(f.part, f.error) for f in ran.scheduler.failures] == [("a-0", "odd")]
    assert ran.fleet.parts().count("a-0") == 1


def test_a_cell_whose_shards_fail_one_after_the_other_is_stopped_and_the_others_go_on() -> None:
    def behave(number: int, call: Call) -> Report:
        if part(call).startswith("a"):
            return Report(failure="shard", error="out of memory")
        return well(number, call)

    ran = play(shards("a", "b", count=30), behave, workers=1)
    assert ran.fleet.parts()[:MAX_ALIKE] == ["a-0", "a-1", "a-2"]
    assert sum(name.startswith("a") for name in ran.fleet.parts()) <= MAX_ALIKE + 1
    assert sum(f.count for f in ran.scheduler.failures) == 30
    assert len(ran.reports) == 30


def test_a_disk_that_keeps_nothing_stops_the_run() -> None:
    def behave(number: int, call: Call) -> Report:
        if call.kind == "shard":
            return Report(failure="storage", error="no space")
        return well(number, call)

    ran = play(shards("a", "b", count=50), behave, workers=1)
    assert len(ran.fleet.parts()) <= MAX_ALIKE + 1
    assert sum(f.count for f in ran.scheduler.failures) == 100
    assert {f.error for f in ran.scheduler.failures} == {"no space"}


def test_a_cell_is_stopped_once_more_rows_have_failed_than_may_fail_in_all() -> None:
    def behave(number: int, call: Call) -> Report:
        failed = {"picture_missing": 10} if part(call).startswith("a") else {}
        return Report(rows=10, failed=failed)

    budgets = {name: Budget(name, 1000, 0, 0.05) for name in "ab"}
    ran = play(shards("a", "b", count=100), behave, 1, budgets)
    tried = [name for name in ran.fleet.parts() if name.startswith("a")]
    assert BREAKER_ROWS / 10 <= len(tried) <= BREAKER_ROWS / 10 + 1
    assert len([name for name in ran.reports if name.startswith("b")]) == 100
    assert [f.label for f in ran.scheduler.failures] == ["a"]
    assert "max_failed_share=0.05" in ran.scheduler.failures[0].error
    assert len(ran.noted("breaker")) == 1


def test_a_cell_whose_failures_are_spent_already_gets_no_shard() -> None:
    ran = play(shards("a"), budgets={"a": Budget("a", 1000, 400, 0.01)})
    assert ran.fleet.parts() == []
    assert ran.scheduler.failures[0].count == 4


def test_failed_rows_within_their_share_stop_nothing() -> None:
    def behave(number: int, call: Call) -> Report:
        return Report(rows=10, failed={"picture_broken": 2})

    ran = play(shards("a", count=100), behave, budgets={"a": Budget("a", 1000, 0, 0.2)})
    assert len(ran.reports) == 100
    assert ran.scheduler.failures == []


def test_at_the_tail_an_idle_worker_takes_what_a_slow_one_holds_and_nobody_waits_for_it() -> None:
    def behave(number: int, call: Call) -> Report:
        if number == 1 and call.kind == "shard":
            raise Hangs
        return well(number, call)

    ran = play(shards("a", count=6), behave, workers=2, deadline=10_000)
    assert len(ran.reports) == 6
    assert ran.scheduler.failures == []
    assert [f["part"] for f in ran.noted("twin")] == ["a-2", "a-0"]  # first what is not begun
    assert ran.fleet.now < 60


def test_a_shard_that_two_workers_have_answered_counts_once() -> None:
    items, reports = shards("a", count=1), []
    scheduler = Scheduler(
        lots(items), lambda *_, **__: None, lambda item, report: reports.append(report)
    )
    hands = [scheduler.join(number, 0.0) for number in (1, 2)]
    for hand in hands:
        hand.model = items[0].model
    calls = [scheduler.offer(hand, 0.0) for hand in hands]
    for hand, call in zip(hands, calls, strict=True):
        assert call is not None
        scheduler.answered(hand, call, Report(rows=15), 1.0)
    assert len(reports) == 1
    assert scheduler.done


def test_after_a_drain_nothing_is_sent_not_even_a_twin() -> None:
    items = shards("a", count=3)
    scheduler = Scheduler(lots(items), lambda *_, **__: None, lambda item, report: None)
    busy, idle = (scheduler.join(number, 0.0) for number in (1, 2))
    busy.model = idle.model = items[0].model
    assert scheduler.offer(busy, 0.0) is not None
    scheduler.drain()
    assert scheduler.offer(idle, 0.0) is None
    scheduler.lost(1, "died", "it was killed")  # What it held is not sent again either.
    assert scheduler.offer(idle, 0.0) is None
    assert scheduler.failures == []


def test_a_shard_that_has_killed_gets_no_twin_and_a_fit_neither() -> None:
    ran = play(shards("a", count=1, rows=3), poison(("a-0", 1)), workers=3)
    assert ran.noted("twin") == []
    assert len(ran.reports) == 1
    turns = {"n": 0}

    def slow(number: int, call: Call) -> Report:
        turns["n"] += 1
        if call.kind == "fit" and turns["n"] < 30:
            raise Hangs
        return well(number, call)

    ran = play([fit("one"), fit("two")], slow, workers=3, deadline=10_000)
    assert ran.fleet.parts("fit") == ["", ""]
    assert ran.noted("twin") == []


def test_a_fit_that_kills_its_worker_three_times_is_given_up() -> None:
    def behave(number: int, call: Call) -> Report:
        if call.kind == "fit" and call.item is not None and call.item.label == "bad":
            raise Dies
        return well(number, call)

    ran = play([fit("bad"), fit("good")], behave, workers=1)
    assert deaths(ran) == 3
    assert [failure.label for failure in ran.scheduler.failures] == ["bad"]
    assert len(ran.reports) == 1
