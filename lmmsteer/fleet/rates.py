"""How fast a model was answered before: shards in the logs of output folders, and what they were.

The same model on the same card, always; then, the first that there is:

    1  the same method, recorded with the same settings
    2  any method, recorded with the same settings
    3  the same method, with other settings
    4  any method, with other settings

Settings: what makes answers longer or slower (SETTINGS). What was taken is said with the rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import cells
from lmmsteer.fleet.cells import CellRecord
from lmmsteer.fleet.logs import Done, Logs
from lmmsteer.fleet.outlook import Pace
from lmmsteer.store import Store

SETTINGS = ("sampling.max_new_tokens", "engine.name", "engine.strict", "model.dtype")
OF_CPU = ("device.threads",)


@dataclass(frozen=True)
class Wanted:
    """What a rate is looked for. card: None where any will do, for it is not known from here."""

    model: str
    digest: str
    method: str
    card: str | None
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Recorded:
    """The shards of a cell that one kind of card has answered, in one output folder."""

    store: Store
    label: str
    card: str
    done: Sequence[Done]
    record: CellRecord | None

    @property
    def method(self) -> str:
        return _base(self.record.cell.method if self.record else self._word(1))

    @property
    def folder(self) -> str | None:
        return self.record.cell.folder if self.record else None

    def of_model(self, wanted: Wanted) -> bool:
        """The model's digest decides; its name where no record says the digest."""
        if self.record is None:
            return self._word(0) == wanted.model
        return self.record.fingerprint.get("model", {}).get("digest") == wanted.digest

    def unlike(self, wanted: Wanted) -> list[str]:
        """Settings that it was recorded with and that are others now: `key 24, not 512`."""
        if self.record is None:
            return []
        keys = (*SETTINGS, *OF_CPU) if self.card == "cpu" else SETTINGS
        pairs = [(key, _at(self.record.config, key), _at(wanted.config, key)) for key in keys]
        return [f"{key} {was}, not {now}" for key, was, now in pairs if was not in (None, now)]

    def _word(self, number: int) -> str:
        words = self.label.split(" ")
        return words[number] if len(words) == 4 else ""


@dataclass(frozen=True)
class Match:
    """The shards that a rate is taken from, and in what they differ from what is wanted."""

    pace: Pace
    found: tuple[Recorded, ...]
    same_method: bool
    unlike: tuple[str, ...]

    @property
    def card(self) -> str:
        return self.found[0].card


class Rates:
    """All that is recorded in some output folders."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.recorded = [one for store in stores for one in _recorded(store)]
        self._paces: dict[tuple[int, ...], Pace] = {}

    def match(self, wanted: Wanted) -> Match | None:
        """The nearest that there is, or None where this model has not been run on this card."""
        there = [one for one in self.recorded if one.of_model(wanted)]
        card = wanted.card or _most(there)
        there = [one for one in there if one.card == card]
        method = _base(wanted.method)
        ranked = [((bool(r.unlike(wanted)), r.method != method), r) for r in there]
        if not ranked:
            return None
        best = min(rank for rank, _ in ranked)
        found = tuple(one for rank, one in ranked if rank == best)
        unlike = dict.fromkeys(text for one in found for text in one.unlike(wanted))
        return Match(self._pace(found), found, not best[1], tuple(unlike))

    def _pace(self, found: Sequence[Recorded]) -> Pace:
        """The same object for the same shards, so that what rests on them errs together."""
        key = tuple(id(one) for one in found)
        if key not in self._paces:
            self._paces[key] = Pace([done for one in found for done in one.done])
        return self._paces[key]


def _recorded(store: Store) -> list[Recorded]:
    groups: dict[tuple[str, str], list[Done]] = {}
    for log in Logs(store).read():
        for done in log.done:
            groups.setdefault((done.cell, done.device), []).append(done)
    records = _records(store) if groups else {}
    return [
        Recorded(store, label, card, done, records.get(label))
        for (label, card), done in groups.items()
    ]


def _records(store: Store) -> dict[str, CellRecord]:
    """The records of a folder by their cells; one that is damaged is left to `verify`."""
    found: dict[str, CellRecord] = {}
    for path in store.list("responses"):
        if path.endswith("/_cell.json"):
            try:
                record = cells.load(store, path.removesuffix("/_cell.json"))
            except LmmsteerError:
                continue
            if record is not None:
                found[str(record.cell)] = record
    return found


def _most(there: Sequence[Recorded]) -> str:
    """The card that has answered the most rows."""
    rows: dict[str, int] = {}
    for one in there:
        rows[one.card] = rows.get(one.card, 0) + sum(done.rows for done in one.done)
    return max(rows, key=lambda card: rows[card], default="")


def _base(method: str) -> str:
    """A method without what a sweep varies in it: `ablation+alpha-0.5` is `ablation`."""
    return method.partition("+")[0]


def _at(config: Mapping[str, Any], key: str) -> Any:
    found: Any = config
    for word in key.split("."):
        found = found.get(word) if isinstance(found, Mapping) else None
    return found
