"""One table that holds methods against each other: python -m analysis.compare OUT

For each attribute and method: mentions of the attribute (change against unsteered), answers that
name the occupation, range of negative answers between groups, misgendering, and worker seconds.
Reads out/scores and out/logs; markdown on screen.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import polars as pl

from analysis import scores
from analysis.frame import BASELINE
from analysis.worked import worked
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import Store, open_store

HEADER = (
    "method",
    "mentions per 1k",
    "change",
    "occupation per 1k",
    "negative per 1k, range over groups",
    "MR_C",
    "seconds",
)
Found = dict[tuple[str, str, str], Any]


def table(store: Store, model: str, dataset: str, attribute: str) -> list[str]:
    """The lines of the table of a model, a data set and an attribute.

    Raises: LmmsteerError where there are no mentions yet.
    """
    mentions = _scores(store, "mentions", model, dataset)
    methods = [key[0] for key in mentions if key[1] == attribute]
    if not methods:
        raise LmmsteerError(
            f"{store.root} has no mentions of {attribute} yet.",
            f"Run: lmmsteer analyze out={store.root}",
        )
    others = {
        name: _scores(store, name, model, dataset) for name in ("occupation", "sentiment", "vqa")
    }
    seconds = _seconds(store, model, dataset)
    base = seconds.get((BASELINE, "none"))
    lines = ["| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
    for method in sorted(dict.fromkeys(methods), key=lambda name: (name != BASELINE, name)):
        cell = attribute if (method, attribute) in seconds else "none"
        spent = seconds.get((method, cell))
        values = (
            f"`{method}`",
            _shown(mentions.get((method, attribute, "per_1k"))),
            _shown(mentions.get((method, attribute, "change_percent")), "%", sign=True),
            _shown(others["occupation"].get((method, cell, "mentions"))),
            _shown(others["sentiment"].get((method, cell, "range_exact"))),
            _shown(others["vqa"].get((method, cell, "MR_C")), digits=1),
            "–" if spent is None or not base else f"{spent / base:.2f}x",
        )
        lines.append("| " + " | ".join(values) + " |")
    return lines


def _scores(store: Store, name: str, model: str, dataset: str) -> Found:
    """{(method, attribute, metric): row} of an analysis, over all groups."""
    read = scores.read(store, name)
    if read is None:
        return {}
    here = (pl.col("model") == model) & (pl.col("dataset") == dataset)
    frame = read[0].filter(pl.col("group").is_null() & here)
    return {(row["method"], row["attribute"], row["metric"]): row for row in frame.to_dicts()}


def _seconds(store: Store, model: str, dataset: str) -> dict[tuple[str, str], float]:
    """Worker seconds of every cell by method and attribute, tries that were done again included."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    start, end = f"{model} ", f" {dataset}"
    for label, one in worked(store):
        if label.startswith(start) and label.endswith(end):
            method, _, attribute = label[len(start) : -len(end)].rpartition(" ")
            found[method, attribute] += one.seconds
    return found


def _shown(
    row: dict[str, Any] | None, unit: str = "", *, sign: bool = False, digits: int = 0
) -> str:
    if row is None or row["value"] is None:
        return "–"
    plus = "+" if sign else ""
    value = f"{row['value']:{plus}.{digits}f}{unit}"
    if row["low"] is None:
        return value
    return f"{value} [{row['low']:{plus}.{digits}f}, {row['high']:{plus}.{digits}f}]"


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    store = open_store(arguments[0])
    try:
        read = scores.read(store, "mentions")
        if read is None:
            raise LmmsteerError(
                f"{store.root} has no scores yet.", f"Run: lmmsteer analyze out={store.root}"
            )
        for keys in (
            read[0].select("model", "dataset", "attribute").unique(maintain_order=True).rows()
        ):
            print(
                "\n".join([f"**{keys[2]}** ({keys[0]}, {keys[1]})", "", *table(store, *keys), ""])
            )
    except LmmsteerError as error:
        print(f"{error.what} {error.mend}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
