"""The tables of the paper, from scores: what stands where. How a table is written is in render.

A table's cells are text; an entry without a score is an en dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.frame import BASELINE

Row = dict[str, Any]
NONE = "–"


@dataclass(frozen=True)
class Table:
    """A titled grid of text. keys: the first columns that name a row; strong: rows to stress."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    keys: int = 1
    strong: frozenset[int] = frozenset()


def build(scores: Mapping[str, pl.DataFrame]) -> list[Table]:
    """Every table whose scores are there, the headline first. scores: {analysis: long table}."""
    tables = []
    if "mentions" in scores:
        tables += [
            *headline(scores["mentions"], scores.get("occupation")),
            table_1(scores["mentions"]),
        ]
    if "sentiment" in scores:
        tables += [table_2(scores["sentiment"]), groups(scores["sentiment"])]
    if "occupation" in scores:
        tables.append(table_3(scores["occupation"]))
    return [table for table in tables if table.rows]


def headline(mentions: pl.DataFrame, occupation: pl.DataFrame | None) -> list[Table]:
    """For each model and data set: mentions of an attribute by method, and what the method cost."""
    return [
        _headline(model, dataset, _rows(part), _rows(occupation))
        for (model, dataset), part in mentions.group_by("model", "dataset", maintain_order=True)
    ]


def _headline(model: Any, dataset: Any, mentions: list[Row], occupation: list[Row]) -> Table:
    found = {_key(row): row for row in mentions}
    jobs = {_key(row): row for row in occupation}
    rows: list[tuple[str, ...]] = []
    strong = set()
    cells = [row for row in mentions if row["metric"] == "per_1k"]
    for row in sorted(cells, key=lambda r: (r["attribute"], r["method"] != BASELINE)):
        names = (model, row["method"], row["attribute"], dataset)
        change = found.get((*names, "change_percent"))
        cost = jobs.get((*names, "change_percent")) or jobs.get(
            (model, row["method"], "none", dataset, "change_percent")
        )
        if change and _clear(change):
            strong.add(len(rows))
        rows.append(
            (
                spoken(row["attribute"]),
                row["method"],
                number(row),
                percent(change),
                percent(cost),
                f"{row['n']:,}",
                coverage(row),
            )
        )
    columns = (
        "attribute",
        "method",
        "mentions per 1k answers",
        "change",
        "occupation change",
        "rows",
        "coverage",
    )
    note = (
        "Mentions of the attribute that nobody asked for; changes against unsteered answers to the"
        " same pictures and prompts; 95% intervals of a clustered bootstrap in brackets."
    )
    return Table(
        f"Mentions by method: {model} on {dataset}",
        columns,
        tuple(rows),
        note,
        2,
        frozenset(strong),
    )


def table_1(mentions: pl.DataFrame) -> Table:
    """Mentions per 1k answers: rows are models and methods, columns data sets and attributes."""
    note = (
        "Bigrams whose first word is a target word. Mentions, not answers: 1,000 can be exceeded."
    )
    title = "Table 1. Mentions of protected attributes per 1k answers"
    return _wide(title, _rows(mentions, "per_1k"), whole, note)


def table_3(occupation: pl.DataFrame) -> Table:
    """Change of occupation mentions against unsteered, in the layout of table 1."""
    title = "Table 3. Change of occupation mentions against unsteered"
    note = (
        "Answers that hold the annotated occupation as whole words. none: no attribute is steered."
    )
    rows = [row for row in _rows(occupation, "change_percent") if row["method"] != BASELINE]
    return _wide(title, rows, lambda row: percent(row, interval=False, digits=2), note)


def table_2(sentiment: pl.DataFrame) -> Table:
    """Variance and range over groups of negative answers per 1k."""
    found = {_key(row): row for row in _rows(sentiment) if row["group"] is None}
    cells = dict.fromkeys(key[:4] for key, row in found.items() if row["metric"] == "variance")
    rows = [
        (
            *_cell(names),
            whole(found[(*names, "variance")], 1),
            whole(found[(*names, "range")]),
            number(found[(*names, "negative_per_1k")]),
            f"{found[(*names, 'variance')]['n']:,}",
        )
        for names in cells
    ]
    columns = (
        "model",
        "method",
        "attribute",
        "dataset",
        "variance",
        "range",
        "negative per 1k",
        "rows",
    )
    note = (
        "Over groups of people: rates of negative answers (VADER compound <= -0.05) rounded to"
        " whole numbers per 1k, sample variance (ddof 1), largest minus smallest."
    )
    return Table("Table 2. Negative sentiment between groups", columns, tuple(rows), note, 4)


def groups(sentiment: pl.DataFrame) -> Table:
    """Negative answers per 1k for each group of people."""
    rows = [r for r in _rows(sentiment, "negative_per_1k") if r["group"] is not None]
    names = list(dict.fromkeys(row["group"] for row in rows))
    cells = dict.fromkeys(_key(row)[:4] for row in rows)
    found = {(*_key(row)[:4], row["group"]): row for row in rows}
    grid = tuple(
        (*_cell(cell), *(number(found.get((*cell, name))) for name in names)) for cell in cells
    )
    columns = ("model", "method", "attribute", "dataset", *(spoken(name) for name in names))
    note = (
        "Answers with VADER compound <= -0.05; 95% intervals of a clustered bootstrap in brackets."
    )
    return Table("Negative answers per 1k by group", columns, grid, note, 4)


def _cell(names: tuple[str, ...]) -> tuple[str, ...]:
    model, method, attribute, dataset = names
    return model, method, spoken(attribute), dataset


def _wide(title: str, rows: list[Row], text: Callable[[Row | None], str], note: str) -> Table:
    across = dict.fromkeys((row["dataset"], row["attribute"]) for row in rows)
    down = dict.fromkeys((row["model"], row["method"]) for row in rows)
    found = {(r["model"], r["method"], r["dataset"], r["attribute"]): r for r in rows}
    grid = tuple(
        (*names, *(text(found.get((*names, *column))) for column in across), *_behind(rows, names))
        for names in down
    )
    single = len({dataset for dataset, _ in across}) == 1
    heads = (spoken(a) if single else f"{d}: {spoken(a)}" for d, a in across)
    return Table(title, ("model", "method", *heads, "rows", "coverage"), grid, note, 2)


def _behind(rows: list[Row], names: tuple[Any, ...]) -> tuple[str, str]:
    """How many rows are behind the entries of a line, and the least of their coverages."""
    mine = [row for row in rows if (row["model"], row["method"]) == names]
    counts = sorted({row["n"] for row in mine})
    shown = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,}-{counts[-1]:,}"
    least = min(mine, key=lambda row: -1.0 if row["coverage"] is None else row["coverage"])
    return shown, coverage(least)


def number(row: Row | None) -> str:
    """595 [570, 621]"""
    if row is None or row["value"] is None:
        return NONE
    return f"{row['value']:,.0f}{_interval(row, lambda end: f'{end:,.0f}')}"


def whole(row: Row | None, digits: int = 0) -> str:
    return NONE if row is None or row["value"] is None else f"{row['value']:,.{digits}f}"


def percent(row: Row | None, interval: bool = True, digits: int = 0) -> str:
    """-28% [-31, -25], with a true minus sign."""
    if row is None or row["value"] is None:
        return NONE
    text = f"{_signed(row['value'], digits)}%"
    return text + (_interval(row, lambda end: _signed(end, digits)) if interval else "")


def coverage(row: Row) -> str:
    return "unknown" if row["coverage"] is None else f"{_floor(row['coverage']):.1f}%"


def spoken(name: str) -> str:
    """body_type as body type."""
    return name.replace("_", " ")


def _floor(share: float) -> float:
    """Percent, never rounded up: 100.0 means all."""
    return math.floor(share * 1000 + 1e-9) / 10


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return (text.lstrip("+-") if float(text) == 0 else text).replace("-", "\u2212")


def _interval(row: Row, form: Callable[[float], str]) -> str:
    if row["low"] is None:
        return ""
    return f" [{form(row['low'])}, {form(row['high'])}]"


def _clear(row: Row) -> bool:
    """Whether the interval of a change lies below zero."""
    return row["high"] is not None and row["high"] < 0


def _key(row: Row) -> tuple[str, ...]:
    return tuple(row[k] for k in ("model", "method", "attribute", "dataset", "metric"))


def _rows(frame: pl.DataFrame | None, metric: str | None = None) -> list[Row]:
    if frame is None:
        return []
    rows: Iterable[Row] = frame.iter_rows(named=True)
    return [row for row in rows if metric is None or row["metric"] == metric]
