"""The fleet's decisions: what is sent to whom, what a death means, when to stop.

Knows neither Ray nor files nor clocks: what happened comes in by calls, with the time where it
matters, and nothing here waits. Safety rests on the commit alone; a decision that turns out wrong
costs work, never a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lmmsteer.fleet.task import FitTask, ModelSpec, Report
from lmmsteer.fleet.work import (
    Budget,
    Call,
    Cause,
    Failure,
    Hand,
    Item,
    Lot,
    Noted,
    Reported,
)

AHEAD = 2
MAX_DEATHS = 3  # Workers that a shard may kill before its rows are answered one at a time.
MAX_LOSSES = 10  # Nodes that may go down under a shard before it is blamed for it.
MAX_LOADS = 2  # Workers that may die while they load a model.
MAX_ALIKE = 3  # Shards of a cell that may fail one after the other.
BREAKER_ROWS = 100  # Failed rows below which no cell is stopped.
SLOW_STAGES = 4.0  # Loading, fitting and finding edits may be silent this much longer.

DIED = "worker_died"
HUNG = "row_hung"


@dataclass
class Scheduler:
    """Decides for a fleet until `done`. failures: what was given up; nothing is raised.

    lots: the work by model, in the order in which models should be loaded. budgets: rows of a cell
    by its folder. deadline: seconds without progress after which a worker is given up.
    """

    lots: list[Lot]
    note: Noted
    on_report: Reported
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    deadline: float = 600.0
    failures: list[Failure] = field(default_factory=list)
    stirred: bool = False

    def __post_init__(self) -> None:
        self.hands: dict[int, Hand] = {}
        self.dead_models: dict[ModelSpec, str] = {}
        self._load_deaths: dict[ModelSpec, int] = {}
        self._load_losses: dict[ModelSpec, int] = {}
        self._suspects: list[Item] = []
        self._open: dict[Item, None] = {}  # Unresolved items with open calls, the oldest first.
        self._alike: dict[str, int] = {}  # Shards of a cell that failed since one came through.
        self._stopped: dict[str, str] = {}
        self._untried: dict[tuple[str, str], int] = {}
        self._storage = 0
        self._draining = False
        for folder, budget in self.budgets.items():
            self._check_budget(folder, budget)

    # What is left

    @property
    def done(self) -> bool:
        """Everything is answered or given up; a twin that still runs is not waited for."""
        return not self._open and not self._suspects and not any(lot.left for lot in self.lots)

    @property
    def waiting(self) -> int:
        """Items that no worker has yet."""
        return sum(lot.left for lot in self.lots) + len(self._suspects)

    def close(self) -> None:
        """Name what was passed over because its cell was stopped."""
        for (label, error), count in self._untried.items():
            self._fail(Failure(label, "", error, count))
        self._untried.clear()

    def drain(self) -> None:
        """Send nothing more. What is left is not failed: the next run does it.

        Called again after each event, it also drops what came back meanwhile.
        """
        self._draining = True
        for lot in self.lots:
            lot.left = 0
        self._suspects.clear()

    # What happens

    def join(self, number: int, now: float) -> Hand:
        """A worker is there."""
        self.hands[number] = Hand(number, since=now)
        return self.hands[number]

    def offer(self, hand: Hand, now: float, depth: int = AHEAD) -> Call | None:
        """What to send to a worker next; None where it has enough, or nothing is left for it."""
        if self._draining or len(hand.open) >= depth:
            return None
        if hand.open and hand.open[-1].kind != "shard":
            return None
        call = self._own(hand) or self._other_model(hand) or self._twin(hand)
        if call is None:
            return None
        if not hand.open:
            hand.since = now
        hand.open.append(call)
        if call.item is not None:
            call.item.open += 1
            self._open[call.item] = None
        return call

    def answered(self, hand: Hand, call: Call, report: Report, now: float) -> None:
        """A worker has answered a call."""
        if call not in hand.open:
            return
        hand.open.remove(call)
        hand.since = now
        if call.item is None:
            self._loaded(hand, call.model, report)
            return
        call.item.open -= 1
        if call.item.resolved:
            return
        if report.failure == "storage":
            self._storage_failed(call.item, report)
        elif report.failure is not None:
            self._shard_failed(call.item, report)
        elif call.kind == "probe":
            self._next_row(call.item)
        else:
            self._resolved(call.item, report)

    def lost(self, number: int, cause: Cause, why: str) -> None:
        """A worker is gone: what it was at is to blame, all it held is sent again."""
        hand = self.hands.pop(number, None)
        if hand is None:
            return
        self.stirred = True
        first = hand.open[0] if hand.open else None
        about = {"cell": first.item.label, "part": first.item.part} if first and first.item else {}
        held = [call.item.part for call in hand.open if call.item is not None]
        self.note("death", worker=number, error=why, cause=cause, parts=held, **about)
        for call in reversed(hand.open):
            if call.item is not None:
                call.item.open -= 1
                if call is not first and not call.item.resolved and not call.item.open:
                    self._requeue(call.item)
        if first is None:
            return
        if first.item is None:
            self._load_died(first.model, cause, why)
        elif not first.item.resolved:
            self._blame(first, cause, why)

    def beat(self, number: int, stage: str, count: int, now: float) -> None:
        """A worker says how far it is; a fit and a load need only say something."""
        hand = self.hands.get(number)
        if hand is None:
            return
        fitting = bool(hand.open) and hand.open[0].kind == "fit"
        if fitting or (stage, count) != (hand.stage, hand.count):
            hand.stage, hand.count, hand.since = stage, count, now

    def silent(self, now: float) -> list[Hand]:
        """Workers that have work and made no progress for too long."""
        return [h for h in self.hands.values() if h.open and now - h.since > self._patience(h)]

    def _patience(self, hand: Hand) -> float:
        slow = hand.open[0].kind in ("load", "fit") or hand.stage == "edit"
        return self.deadline * (SLOW_STAGES if slow else 1.0)

    # What to send

    def _own(self, hand: Hand) -> Call | None:
        """Work for the model that it has: a shard, then a shard whose rows are under suspicion."""
        lot = next((lot for lot in self.lots if lot.model == hand.model and lot.left), None)
        item = lot.take(self._stopped, self._pass_over) if lot is not None else None
        if item is not None:
            return _call(item)
        if hand.open:
            return None
        for suspect in self._suspects:
            if suspect.model == hand.model:
                self._suspects.remove(suspect)
                return _call(suspect)
        return None

    def _other_model(self, hand: Hand) -> Call | None:
        """The next model, unless as many workers are loading it as there is work for."""
        if hand.open:
            return None
        for model in self._models_with_work():
            loading = sum(1 for h in self.hands.values() if h.open and _loads(h.open[0], model))
            wanted = sum(lot.left for lot in self.lots if lot.model == model)
            wanted += sum(item.model == model for item in self._suspects)
            if model != hand.model and loading < wanted:
                return Call("load", model)
        return None

    def _models_with_work(self) -> Iterable[ModelSpec]:
        yield from (lot.model for lot in self.lots if lot.left)
        yield from (item.model for item in self._suspects)

    def _twin(self, hand: Hand) -> Call | None:
        """At the tail: a shard that another worker has, first one that it has not begun."""
        if hand.open or any(lot.left for lot in self.lots):
            return None
        for begun in (False, True):
            for item in self._open:
                if self._may_twin(item, hand, begun):
                    self.note("twin", cell=item.label, part=item.part, worker=hand.number)
                    return _call(item)
        return None

    def _may_twin(self, item: Item, hand: Hand, begun: bool) -> bool:
        plain = item.open == 1 and item.deaths == 0 and not item.resolved
        if not plain or isinstance(item.task, FitTask) or item.model != hand.model:
            return False
        return begun == any(h.open and h.open[0].item is item for h in self.hands.values())

    # What an answer means

    def _loaded(self, hand: Hand, model: ModelSpec, report: Report) -> None:
        if report.failure is None:
            hand.model = model
            self._load_deaths.pop(model, None)
            self._load_losses.pop(model, None)
            self.note("load", model=model.name, worker=hand.number, seconds=report.seconds)
            return
        hand.model = None
        self._give_up_model(model, report.error)

    def _resolved(self, item: Item, report: Report) -> None:
        item.resolved = True
        self._open.pop(item, None)
        self._storage = 0
        self._alike.pop(item.folder, None)
        self.on_report(item, report)
        budget = self.budgets.get(item.folder)
        if budget is not None:
            budget.failed += sum(report.failed.values())
            self._check_budget(item.folder, budget)

    def _shard_failed(self, item: Item, report: Report) -> None:
        """An error that is not a death: doing it again would end the same way."""
        self._give_up(item, report.error)
        alike = self._alike[item.folder] = self._alike.get(item.folder, 0) + 1
        if item.folder and alike >= MAX_ALIKE:
            error = f"{MAX_ALIKE} shards failed one after the other, so the rest was not tried"
            self._stop(item.folder, item.label, f"{error}; the last: {report.error}")

    def _storage_failed(self, item: Item, report: Report) -> None:
        """What was answered could not be kept: a few tries, then nothing more is computed."""
        self._give_up(item, report.error)
        self._storage += 1
        if self._storage >= MAX_ALIKE:
            for lot in self.lots:
                self._name_dropped(lot, report.error)
            for suspect in self._suspects:
                self._give_up(suspect, report.error)
            self._suspects.clear()

    def _check_budget(self, folder: str, budget: Budget) -> None:
        if folder in self._stopped or budget.failed < BREAKER_ROWS or not budget.spent:
            return
        facts = {"failed": budget.failed, "planned": budget.planned, "share": budget.share}
        self.note("breaker", cell=budget.label, **facts)
        error = (
            f"{budget.failed} of {budget.planned} rows failed, more than"
            f" max_failed_share={budget.share}, so the rest was not tried; mend the cause, or raise"
            " max_failed_share and give the command again"
        )
        self._stop(folder, budget.label, error)

    def _stop(self, folder: str, label: str, error: str) -> None:
        self._stopped.setdefault(folder, error)
        for suspect in [s for s in self._suspects if s.folder == folder]:
            self._suspects.remove(suspect)
            self._give_up(suspect, error)

    def _pass_over(self, item: Item) -> None:
        key = (item.label, self._stopped[item.folder])
        self._untried[key] = self._untried.get(key, 0) + 1

    # What a death means

    def _blame(self, call: Call, cause: Cause, why: str) -> None:
        item = call.item
        assert item is not None
        if cause == "node" and item.losses < MAX_LOSSES:
            item.losses += 1
            self._again(item)
            return
        item.deaths += 1
        if call.kind == "probe":
            self._quarantine(item, cause, why)
        elif item.open:
            return  # Its twin goes on; whether it dies as well is seen then.
        elif item.deaths < MAX_DEATHS:
            self._requeue(item)
        elif isinstance(item.task, FitTask) or item.probed:
            again = "again though none of its rows does alone, " if item.probed else ""
            self._give_up(item, f"its worker died {again}{item.deaths} times in all: {why}")
        else:
            item.probe = 0
            self.note("isolate", cell=item.label, part=item.part)
            self._suspects.append(item)

    def _quarantine(self, item: Item, cause: Cause, why: str) -> None:
        """The row was alone when its worker ended: it is the one."""
        reason = HUNG if cause == "silent" else DIED
        item.excluded = {**(item.excluded or {}), item.probe or 0: reason}
        facts = {"row": item.probe, "reason": reason, "attempts": item.deaths, "error": why}
        self.note("quarantine", cell=item.label, part=item.part, **facts)
        self._next_row(item)

    def _next_row(self, item: Item) -> None:
        """The next row alone, or, once all were, the shard without those that kill."""
        self._open.pop(item, None)
        item.probe = (item.probe or 0) + 1
        if item.probe < item.rows:
            self._suspects.insert(0, item)
        else:
            item.probed, item.probe = True, None
            item.deaths = 0
            self._requeue(item)
        self.stirred = True

    def _again(self, item: Item) -> None:
        if item.probe is not None:
            self._open.pop(item, None)
            self._suspects.insert(0, item)
        elif not item.open:
            self._requeue(item)

    def _requeue(self, item: Item) -> None:
        self._open.pop(item, None)
        self.stirred = True
        if item.model in self.dead_models:
            self._give_up(item, self.dead_models[item.model])
            return
        next(lot for lot in self.lots if lot.model == item.model).give_back(item)

    def _load_died(self, model: ModelSpec, cause: Cause, why: str) -> None:
        """Since a worker last loaded it: so many ends are no chance, be it of nodes."""
        node = cause == "node"
        ends, most = (self._load_losses, MAX_LOSSES) if node else (self._load_deaths, MAX_LOADS)
        ends[model] = ends.get(model, 0) + 1
        if ends[model] >= most:
            what = "nodes went down under workers that" if node else "workers ended while they"
            self._give_up_model(model, f"{most} {what} loaded {model.name}: {why}")

    # What is given up

    def _give_up(self, item: Item, error: str) -> None:
        item.resolved = True
        self._open.pop(item, None)
        self._fail(Failure(item.label, item.part, error))

    def _give_up_model(self, model: ModelSpec, error: str) -> None:
        """A model that cannot be loaded: none of its items is tried."""
        self.dead_models.setdefault(model, error)
        for lot in self.lots:
            if lot.model == model:
                self._name_dropped(lot, error)
        for suspect in [s for s in self._suspects if s.model == model]:
            self._suspects.remove(suspect)
            self._give_up(suspect, error)

    def _name_dropped(self, lot: Lot, error: str) -> None:
        for label, count in lot.drop().items():
            self._fail(Failure(label, "", error, count))

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        facts = {"part": failure.part, "error": failure.error, "shards": failure.count}
        self.note("failure", cell=failure.label, **facts)


def _call(item: Item) -> Call:
    if isinstance(item.task, FitTask):
        return Call("fit", item.model, item)
    if item.probe is not None:
        return Call("probe", item.model, item, item.probe)
    return Call("shard", item.model, item, excluded=item.excluded or {})


def _loads(call: Call, model: ModelSpec) -> bool:
    return call.kind == "load" and call.model == model
