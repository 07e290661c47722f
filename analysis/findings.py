"""What was found, before any table: what each method did to mentions, in bars and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import polars as pl

from analysis import tables
from analysis.frame import BASELINE

TOLD = 4  # methods of a model and data set that are put in words: the strongest


@dataclass(frozen=True)
class Effect:
    """The change of one attribute's mentions, in per cent. `clear`: 0 is outside the interval."""

    attribute: str
    value: float
    text: str
    clear: bool

    @property
    def size(self) -> float:
        """Percent of a bar."""
        return min(100.0, abs(self.value))

    @property
    def up(self) -> bool:
        return self.value > 0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Effect:
        clear = row["low"] is not None and (row["high"] < 0 or row["low"] > 0)
        attribute = tables.spoken(row["attribute"])
        return cls(attribute, row["value"], tables.percent(dict(row)), clear)


@dataclass(frozen=True)
class Finding:
    """What one method did to mentions, and to occupation mentions."""

    place: str
    method: str
    effects: list[Effect]
    occupation: str


def findings(mentions: pl.DataFrame, occupation: pl.DataFrame | None) -> list[Finding]:
    """What each method did, against unsteered, the strongest of a model and data set first."""
    empty = mentions.clear()
    changes, costs = (
        frame.filter(pl.col("metric") == "change_percent").drop_nulls("value")
        for frame in (mentions, empty if occupation is None else occupation)
    )
    place = ("model", "dataset", "method")
    changes = changes.with_columns(mean=pl.col("value").mean().over(place)).sort(*place[:2], "mean")
    found = []
    for key, rows in changes.group_by(place, maintain_order=True):
        model, dataset, method = map(str, key)
        same = [pl.col(name) == value for name, value in zip(place, key, strict=True)]
        cost = costs.filter(*same)
        effects = [Effect.of(row) for row in rows.sort("attribute").iter_rows(named=True)]
        found.append(Finding(f"{model} on {dataset}", method, effects, _span(cost["value"])))
    return found


def _span(values: pl.Series) -> str:
    """-2% to +1%, or one of them where they are the same."""
    said = [tables.percent({"value": value}, interval=False) for value in values.sort()]
    if not said:
        return ""
    return said[0] if said[0] == said[-1] else f"{said[0]} to {said[-1]}"


@dataclass(frozen=True)
class Story:
    """What was found on one model and data set, in sentences: [who, what it does]."""

    place: str
    sentences: list[tuple[str, str]]


def story(found: Iterable[Finding], mentions: pl.DataFrame) -> list[Story]:
    """For each model and data set: how it is unsteered, then what the strongest methods change."""
    told = []
    for place, group in groupby(found, key=lambda finding: finding.place):
        own = list(group)
        said = [*_unsteered(place, mentions), _most(own[0]), *map(_change, own[1:TOLD])]
        if own[TOLD:]:
            names = listed([finding.method for finding in own[TOLD:]])
            said.append((names, "come after them, in the cards below."))
        told.append(Story(place, said))
    return told


def _unsteered(place: str, mentions: pl.DataFrame) -> list[tuple[str, str]]:
    """How often attributes are brought up without steering."""
    rows = mentions.filter(
        pl.concat_str("model", pl.lit(" on "), "dataset") == place,
        pl.col("method") == BASELINE,
        pl.col("metric") == "per_1k",
    )
    rates = [
        f"{tables.spoken(row['attribute'])} {row['value']:,.0f}"
        for row in rows.sort("value", descending=True).iter_rows(named=True)
        if row["value"]
    ]
    said = f"answers mention what nobody asked for. Per 1,000 of them: {listed(rates)} mentions."
    return [("Unsteered", said)] if rates else []


def _most(finding: Finding) -> tuple[str, str]:
    """The strongest method: every change, and what became of the occupation."""
    lowered = _by([e for e in _clear(finding) if not e.up])
    if not lowered:
        return _change(finding)
    raised = _by([e for e in _clear(finding) if e.up])
    more = f", and raises {raised}" if raised else ""
    cost = ""
    if finding.occupation:
        cost = f" Answers that name the occupation change by {finding.occupation}."
    return finding.method, f"lowers mentions most: {lowered}{more}.{cost}"


def _change(finding: Finding) -> tuple[str, str]:
    clear = _clear(finding)
    down, up = [e for e in clear if not e.up], [e for e in clear if e.up]
    if len(down) == len(finding.effects) > 1:
        sizes = sorted(round(effect.size) for effect in down)
        return finding.method, f"lowers them by {sizes[0]}% to {sizes[-1]}%."
    lowered = f"lowers {_by(down)}" if down else "lowers none"
    raised = f", and raises {_by(up)}" if up else ""
    return finding.method, f"{lowered}{raised}."


def _clear(finding: Finding) -> list[Effect]:
    """What is clear of zero, the largest first."""
    return sorted((e for e in finding.effects if e.clear), key=lambda effect: -abs(effect.value))


def _by(effects: Sequence[Effect]) -> str:
    return listed([f"{effect.attribute} by {abs(effect.value):.0f}%" for effect in effects])


def listed(words: Sequence[str]) -> str:
    """a, b and c"""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
