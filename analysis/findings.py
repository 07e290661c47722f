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
    """What was found on one model and data set, in sentences."""

    place: str
    sentences: list[str]


def story(found: Iterable[Finding], mentions: pl.DataFrame) -> list[Story]:
    """For each model and data set: how it is unsteered, then what the strongest methods change."""
    told = []
    for place, group in groupby(found, key=lambda finding: finding.place):
        own = list(group)
        more = len(own) - TOLD
        rest = [f"{more} more {'methods' if more > 1 else 'method'} below."] if more > 0 else []
        said = [*_unsteered(place, mentions), *map(_change, own[:TOLD]), *rest]
        told.append(Story(place, said))
    return told


def _unsteered(place: str, mentions: pl.DataFrame) -> list[str]:
    """How often attributes are brought up without steering."""
    rows = mentions.filter(
        pl.concat_str("model", pl.lit(" on "), "dataset") == place,
        pl.col("method") == BASELINE,
        pl.col("metric") == "per_1k",
        pl.col("group").is_null(),
    ).sort("value", descending=True)
    rates = [
        f"{tables.spoken(row['attribute'])} {row['value']:,.0f}"
        for row in rows.drop_nulls("value").iter_rows(named=True)
    ]
    if not rates:
        return []
    times = "time" if rates[0].endswith(" 1") and len(rates) == 1 else "times"
    return [f"Unasked, 1,000 unsteered answers bring up {listed(rates)} {times}."]


def _change(finding: Finding) -> str:
    clear = sorted((e for e in finding.effects if e.clear), key=lambda effect: effect.value)
    parts = [
        f"{verb} mentions of {listed([f'{e.attribute} by {abs(e.value):.0f}%' for e in some])}"
        for verb, some in (
            ("lowers", [e for e in clear if not e.up]),
            ("raises", [e for e in clear if e.up][::-1]),
        )
        if some
    ]
    text = " and ".join(parts) or "changes no attribute's mentions clearly"
    cost = f"; answers that name the occupation: {finding.occupation}" if finding.occupation else ""
    return f"{finding.method} {text}{cost}."


def listed(words: Sequence[str]) -> str:
    """a, b and c"""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
