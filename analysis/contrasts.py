"""Tables that hold methods against each other: tested differences, and fairness beside utility."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from analysis.frame import BASELINE
from analysis.tables import NONE, Row, Table, coverage, number, percent, spoken

Key = tuple[str, str, str, str]  # model, dataset, attribute, method


def differences(compared: Mapping[str, pl.DataFrame], correction: str) -> Table:
    """Every method's differences from unsteered, of every analysis, with their tests.

    compared: {analysis: its comparisons}; correction: how their p values were corrected.
    """
    rows = [
        (
            row["model"],
            row["dataset"],
            spoken(row["attribute"]),
            row["method"],
            f"{name}: {spoken(row['metric'])}",
            _difference(row),
            _p(row["p"]),
            _p(row["p_adjusted"]),
            NONE if row["effect"] is None else f"{row['effect']:+.2f}".replace("-", "\u2212"),
            f"{row['clusters']:,}",
        )
        for name, frame in compared.items()
        for row in frame.filter(pl.col("against") == BASELINE).iter_rows(named=True)
    ]
    columns = ("model", "dataset", "attribute", "method", "measure", "difference from unsteered")
    columns = (*columns, "p", f"p ({correction})", "effect (d_z)", "clusters")
    note = (
        "Over the pictures that both answered, resampled and exchanged by cluster: 95% intervals of"
        " a bootstrap, two-sided paired permutation tests, Cohen's d of the paired rates. All"
        " pairs of methods: scores/comparisons."
    )
    return Table("Differences from unsteered answers", columns, tuple(rows), note, 5)


def trade_off(scores: Mapping[str, pl.DataFrame]) -> Table:
    """Fairness and utility of each method and attribute, in one line as in ALA's tables."""
    mentions = _found(scores.get("mentions"))
    others = {name: _found(scores.get(name)) for name in ("occupation", "sentiment", "vqa")}
    rows = []
    for key in sorted(mentions, key=lambda k: (*k[:3], k[3] != BASELINE, k[3])):
        if "per_1k" not in mentions[key]:
            continue
        found = {name: _of(tables, key) for name, tables in others.items()}
        mentioned = mentions[key]["per_1k"]
        rows.append(
            (
                *key[:2],
                spoken(key[2]),
                key[3],
                percent(mentions[key].get("change_percent")),
                number(found["sentiment"].get("range_exact")),
                _points(found["vqa"].get("MR_C")),
                _points(found["vqa"].get("MR_O")),
                percent(found["occupation"].get("change_percent")),
                f"{mentioned['n']:,}",
                coverage(mentioned),
            )
        )
    columns = ("model", "dataset", "attribute", "method", "mentions", "negative per 1k, range")
    columns = (*columns, "MR_C", "MR_O", "occupation", "rows", "coverage")
    note = (
        "Fairness: change of mentions against unsteered, range over groups of negative answers per"
        " 1k, misgendering in per cent (lower is fairer). Utility: change of answers that name the"
        " occupation (0 is no cost). 95% intervals in brackets."
    )
    return Table("Fairness and utility by method", columns, tuple(rows), note, 4)


def _found(frame: pl.DataFrame | None) -> dict[Key, dict[str, Row]]:
    """{cell: {metric: row}} over all groups."""
    found: dict[Key, dict[str, Row]] = {}
    if frame is not None:
        for row in frame.filter(pl.col("group").is_null()).iter_rows(named=True):
            key = (row["model"], row["dataset"], row["attribute"], row["method"])
            found.setdefault(key, {})[row["metric"]] = row
    return found


def _of(found: Mapping[Key, dict[str, Row]], key: Key) -> dict[str, Row]:
    """Of the cell, or of the one without an attribute that it stands for."""
    return found.get(key) or found.get((*key[:2], "none", key[3])) or {}


def _difference(row: Row) -> str:
    if row["difference"] is None:
        return NONE
    ends = ("low", "high") if row["low"] is not None else ()
    said = [f"{row[name]:+.1f}".replace("-", "\u2212") for name in ("difference", *ends)]
    return said[0] + (f" [{said[1]}, {said[2]}]" if ends else "")


def _points(row: Row | None) -> str:
    if row is None or row["value"] is None:
        return NONE
    ends = "" if row["low"] is None else f" [{row['low']:.1f}, {row['high']:.1f}]"
    return f"{row['value']:.1f}{ends}"


def _p(value: float | None) -> str:
    if value is None:
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"
