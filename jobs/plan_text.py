"""What `plan` says in words: a line for each cell, what is missing, then the sums."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from jobs.screen import between, clock, columns, number, size
from lmmsteer.fleet.standing import NAMES

Facts = dict[str, Any]
TRY = 64  # Pictures of a try that tells a rate.
OF_PLAN = ("out", "limit", "json", "rates")


def lines(found: Facts) -> list[str]:
    """Everything, the sums last."""
    missing = [r for r in found["refused"] if r["missing_artifact"]]
    other = [r for r in found["refused"] if not r["missing_artifact"]]
    said = [*_cells(found["cells"], missing)]
    said += [f"{r['member']}: {r['error']}\n  {r['mend']}" for r in (*missing, *other)]
    return [*said, *_sums(found), *_notes([*found["cells"], *missing]), *_try(found)]


def _cells(cells: Sequence[Facts], missing: Sequence[Facts]) -> list[str]:
    named = [(" ".join(cell[key] for key in NAMES), cell) for cell in cells]
    named += [(one["member"], one) for one in missing if "rows" in one]
    shards = max((len(str(cell["shards"])) for _, cell in named), default=0)
    rows = max((len(str(cell["rows"])) for _, cell in named), default=0)
    return columns([_columns(name, cell, shards, rows) for name, cell in named])


def _columns(name: str, cell: Facts, shards: int, rows: int) -> list[str]:
    done, unknown = cell["shards"] - cell["shards_left"], "card-hours unknown"
    state = "" if cell["manifest"] else "manifest not made yet"
    if "missing_artifact" in cell:
        state = "artifact missing"
    return [
        f"{name}:",
        f"{done:>{shards}} of {cell['shards']:>{shards}} shards done,",
        f"{cell['rows_left']:>{rows}} of {cell['rows']:>{rows}} rows left",
        f"{_short(cell['card_hours']['estimate'])} card-hours" if cell["card_hours"] else unknown,
        state,
    ]


def _sums(found: Facts) -> list[str]:
    total, bytes_, files = found["total"], found["bytes"], found["files"]
    waiting = total["waiting_for_artifacts"]
    note = f" and {number(waiting, 'member')} whose artifact is missing" if waiting else ""
    known = total["cells"] + waiting - len(found["card_hours_unknown"])
    unknown = len(found["card_hours_unknown"])
    said = [
        f"{number(total['cells'], 'cell')}{note}:"
        f" {total['shards_left']} of {total['shards']} shards,"
        f" {total['rows_left']} of {total['rows']} rows left"
    ]
    if known:
        more = f", and {number(unknown, 'cell')} whose rate is unknown" if unknown else ""
        said.append(f"card-hours: {between(found['card_hours'], _short)}{more}")
        said.append(f"time: {_wall(found)}")
        if found["price"] is not None:
            said.append(f"price: {between(found['price'], _short)}{more}")
    records = files["manifests"] + files["responses"] + files["records"]
    more = bytes_["responses_unknown_cells"]
    said.append(
        f"to write: {records} files, {'at least ' if more else 'about '}{size(bytes_['total'])}"
        f" ({size(bytes_['manifests'])} manifests, {size(bytes_['responses'])} responses"
        + (f"; responses of {number(more, 'cell')} unknown)" if more else ")")
    )
    if bytes_["free"] is not None:
        room = " - NOT ENOUGH" if bytes_["fits"] is False else ""
        said.append(f"free on the disk of {found['out']}: {size(bytes_['free'])}{room}")
    return said


def _wall(found: Facts) -> str:
    if found["hours"] is None:
        return "unknown, for how many cards the cluster has is not asked here: cluster.workers=N"
    took = between(found["hours"], lambda hours: clock(3600 * hours))
    return f"{took} on {number(found['workers'], 'worker')}"


def _notes(cells: Sequence[Facts]) -> list[str]:
    """Where the rates are from, once for all cells that share one, and what speaks against it."""
    groups: dict[str, int] = {}
    for cell in cells:
        if cell.get("rate") and cell["rows_left"]:
            text = _source(cell["rate"])
            groups[text] = groups.get(text, 0) + 1
    return [f"rate of {number(count, 'cell')}: {text}" for text, count in groups.items()]


def _source(rate: Facts) -> str:
    method = "the same method" if rate["same_method"] else "OTHER METHODS of the model"
    other = "; ".join(rate["other_settings"])
    note = f", recorded with {other}" if other else ""
    where = ", ".join(rate["recorded_in"])
    return (
        f"{rate['rows_per_second']:.3g} rows/s on {rate['device'] or 'a device'}, from"
        f" {number(rate['recorded_shards'], 'shard')} of {method} in {where}{note}"
    )


def _try(found: Facts) -> list[str]:
    """The commands that make an unknown rate known."""
    if not found["card_hours_unknown"]:
        return []
    out = found["out"].rstrip("/") + "-try"
    rates = ",".join([*found["rates"], out])
    return [
        f"card-hours unknown for {number(len(found['card_hours_unknown']), 'cell')}: no run of the"
        " model on this card is recorded. Try a few pictures, then plan with what that says:",
        "  " + _command("generate", f"limit={TRY}", f"out={out}"),
        "  " + _command("plan", f"rates={rates}", f"out={found['out']}"),
    ]


def _command(verb: str, *more: str) -> str:
    """The user's own overrides, for another verb."""
    drop = OF_PLAN if verb == "generate" else ("out", "rates")
    kept = [word for word in sys.argv[1:] if word.partition("=")[0] not in drop]
    return shlex.join(["lmmsteer", verb, *kept, *more])


def _short(value: float) -> str:
    """Three digits: 0.0437, 12.3, 1230."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
