"""Tables of the measures that have none of their own: a line a cell, a column a metric."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from analysis.tables import NONE, Row, Table, coverage, spoken

TITLES = {
    "judge": ("Mentions counted by a language model", "Answers a judge counted mentions in."),
    "accuracy": ("Answers that match the picture, by a judge", "Yes-answers in per cent."),
    "tokens": (
        "Figure 3. Shift of the first token's probabilities",
        "Tokens that spell an attribute's words: summed probability, steered minus unsteered.",
    ),
    "captions": ("Captions against references", "METEOR, SPICE and ROUGE-L, 0 to 1."),
    "toxicity": ("Toxicity", "By the classifier that was named; per cent."),
    "competency": ("Words of competence", "Distinct listed words per 1k answers; spread by group."),
    "direct": ("Direct questions", "Answers that name the picture's label, per cent."),
    "health": (
        "Length, diversity and repetition",
        "words, tokens: mean length. distinct n: share of distinct n-grams. The rest in per cent.",
    ),
    "cost": (
        "Cost",
        "Worker seconds and tokens per second, device memory in GiB; ratios to unsteered.",
    ),
}


def build(scores: Mapping[str, pl.DataFrame]) -> list[Table]:
    """One table for each of the measures that were taken. scores: {analysis: long table}."""
    found = [_table(name, scores[name]) for name in TITLES if name in scores]
    return [table for table in found if table.rows]


def _table(name: str, frame: pl.DataFrame) -> Table:
    title, note = TITLES[name]
    rows = frame.filter(pl.col("group").is_null(), ~pl.col("metric").str.ends_with("_change"))
    metrics = rows["metric"].unique(maintain_order=True).to_list()
    cells: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows.iter_rows(named=True):
        key = (row["model"], row["dataset"], spoken(row["attribute"]), row["method"])
        cells.setdefault(key, {})[row["metric"]] = row
    lines = tuple(
        (*key, *(_figure(found.get(m)) for m in metrics), *_behind(found))
        for key, found in cells.items()
    )
    heads = ("model", "dataset", "attribute", "method", *map(spoken, metrics), "rows", "coverage")
    return Table(title, heads, lines, f"{note} 95% intervals in brackets.", 4)


def _behind(found: Mapping[str, Row]) -> tuple[str, str]:
    most = max(found.values(), key=lambda row: row["n"])
    return f"{most['n']:,}", coverage(most)


def _figure(row: Row | None) -> str:
    if row is None or row["value"] is None:
        return NONE
    ends = "" if row["low"] is None else f" [{significant(row['low'])}, {significant(row['high'])}]"
    return significant(row["value"]) + ends


def significant(value: float) -> str:
    """Three significant digits, never in powers of ten above 0.001: 1,930, 12.1, 0.235."""
    if value == 0:
        return "0"
    if abs(value) < 0.001:
        return f"{value:.2e}".replace("-", "\u2212")
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:,.{max(0, 3 - whole)}f}".replace("-", "\u2212")
