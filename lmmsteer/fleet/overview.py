"""All that `status` tells of an output folder: cells, drivers, rate, time left, last errors.

States and counts are the listing's and the footers'; the logs add pace, drivers and errors only.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lmmsteer.fleet.logs import Done, Log
from lmmsteer.fleet.outlook import Pace, total
from lmmsteer.fleet.standing import NAMES, Standing

RECENT = 200  # Shards, the newest, that a pace is taken from.
OWN = 3  # Shards from which on a cell's own pace is better than its model's.
LAST_ERRORS = 5


def look(standings: Sequence[Standing], logs: Sequence[Log], now: float) -> dict[str, Any]:
    """The whole picture as JSON has it. now: seconds since the epoch."""
    live = [log for log in logs if log.state(now) == "running"]
    newest = live or list(logs[-1:])
    workers = sum(len(log.workers) for log in newest)
    paces = _Paces(logs, live)
    return {
        "cells": [_cell(s, paces) for s in standings],
        "total": _total(standings),
        "running": bool(live),
        "workers": workers,
        "rows_per_second": _rate(newest),
        "seconds_left": _left(standings, paces, workers),
        "drivers": [_driver(log, now) for log in logs],
        "log": newest[-1].path if newest else None,
        "errors": _last_errors(newest),
        "refused": newest[-1].refused if newest else [],
    }


def _last_errors(logs: Iterable[Log]) -> list[dict[str, Any]]:
    found = (error for log in logs for error in log.errors)
    return sorted(found, key=lambda error: str(error.get("time", "")))[-LAST_ERRORS:]


class _Paces:
    """How fast cells are answered: from the drivers at work where they say it, else from all."""

    def __init__(self, logs: Iterable[Log], live: Iterable[Log]) -> None:
        self._now, self._ever = _recent(live), _recent(logs)
        self._made: dict[str, Pace] = {}

    def own(self, cell: str) -> Pace | None:
        """A cell's own last shards."""
        now = self._now.get(cell, ())
        return self._pace(cell, now if len(now) >= OWN else self._ever.get(cell, ()))

    def of(self, cell: str) -> tuple[Pace | None, bool]:
        """The cell's own pace, where it has a few shards; else its model's, else all cells'."""
        own = self.own(cell)
        if own is not None and len(own.done) >= OWN:
            return own, True
        model = cell.partition(" ")[0]
        for name in (model, ""):
            wide = self._pace(name or " ", self._ever.get(f"{name} *", ()))
            if wide is not None:
                return wide, False
        return None, False

    def _pace(self, key: str, done: Iterable[Done]) -> Pace | None:
        if key not in self._made:
            shards = tuple(done)
            if not shards:
                return None
            self._made[key] = Pace(shards)
        return self._made[key]


def _recent(logs: Iterable[Log]) -> Mapping[str, deque[Done]]:
    """The last shards of each cell, of each model ("MODEL *") and of all (" *")."""
    found: dict[str, deque[Done]] = defaultdict(lambda: deque(maxlen=RECENT))
    for log in logs:
        for done in log.done:
            for key in (done.cell, f"{done.model} *", " *"):
                found[key].append(done)
    return found


def _rate(logs: Iterable[Log]) -> float | None:
    """Rows a second: of each driver, what a worker does over the last shards times its workers."""
    rates = [
        Pace(log.done[-RECENT:]).rows_per_second * len(log.workers) for log in logs if log.done
    ]
    return round(sum(rates), 3) if any(rates) else None


def _left(standings: Sequence[Standing], paces: _Paces, workers: int) -> dict[str, Any] | None:
    """Seconds until the last row, as in outlook, on the workers that are there.

    No more workers count than shards are left. None where no shard was ever done, or none is left.
    """
    open_cells = [s for s in standings if s.rows_left]
    found = [(paces.of(str(s)), s.rows_left) for s in open_cells]
    known = [(pace, rows) for (pace, _), rows in found if pace is not None]
    busy = min(workers, sum(s.shards_left for s in open_cells))
    if not busy or not known or len(known) < len(found):
        return None
    borrowed = sum(not own for (_, own), _ in found)
    return {**total(known).times(1 / busy).numbers(), "workers": busy, "borrowed": borrowed}


def _cell(standing: Standing, paces: _Paces) -> dict[str, Any]:
    pace = paces.own(str(standing))
    return {
        **{key: standing.names.get(key) for key in NAMES},
        "folder": standing.folder,
        "state": standing.state,
        "manifest": standing.manifest,
        **_counts(standing),
        "failed": dict(sorted(standing.failed.items())),
        "max_failed_share": standing.share,
        "rows_per_second_of_a_worker": pace and round(pace.rows_per_second, 3),
        "damaged": [{"error": fault.what, "mend": fault.mend} for fault in standing.faults],
    }


def _counts(standing: Standing) -> dict[str, int]:
    return {
        "rows": standing.rows,
        "rows_done": standing.rows_done,
        "rows_left": standing.rows_left,
        "shards": standing.shards,
        "shards_done": standing.shards_done,
        "shards_left": standing.shards_left,
    }


def _total(standings: Sequence[Standing]) -> dict[str, Any]:
    sums: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    states: Counter[str] = Counter()
    for standing in standings:
        sums.update(_counts(standing))
        failed += standing.failed
        states[standing.state] += 1
    named = {"failed": dict(sorted(failed.items()))}
    return {"cells": len(standings), "states": dict(states), **sums, **named}


def _driver(log: Log, now: float) -> dict[str, Any]:
    """A driver: who it is, and when it was last heard of."""
    return {
        "log": log.path,
        "verb": log.verb,
        "state": log.state(now),
        "code": log.end.get("code") if log.end is not None else None,
        **{key: log.start.get(key) for key in ("driver", "host", "pid")},
        "workers": len(log.workers),
        "shards_done": len(log.done),
        "seconds_since_last_event": round(max(0.0, now - (log.last or now)), 1),
        "patience_seconds": round(log.patience, 1),
    }
