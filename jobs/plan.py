"""plan: what a command would do and what it would take, with nothing written, no weights loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import ListConfig, open_dict

from jobs import explain, plan_text
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import sizes
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.logs import Logs
from lmmsteer.fleet.outlook import Forecast
from lmmsteer.fleet.plan import Plan, Refusal
from lmmsteer.fleet.prospect import HOUR, Ahead, Prospect
from lmmsteer.fleet.rates import Match, Rates
from lmmsteer.fleet.steering import MissingArtifact
from lmmsteer.store import Store, open_store

Facts = dict[str, Any]


def run(members: list[Member]) -> int:
    """Cells, rows, shards, hours, bytes and price, and what is missing with what makes it."""
    as_json, folders = _own_keys(members)
    plan = Plan.of_members(members, lambda error: explain.sentence(error, "plan"))
    stores = {store.root: store for store in (plan.store, *map(_recorded, folders))}
    found = facts(Prospect(plan, members, Rates(list(stores.values()))), folders)
    print(json.dumps(found, indent=1) if as_json else "\n".join(plan_text.lines(found)))
    refused = found["refused"]
    if refused and not found["cells"] and not all(r["missing_artifact"] for r in refused):
        return 2
    return 0


def _own_keys(members: Sequence[Member]) -> tuple[bool, list[str]]:
    """json and rates, taken out of the configs: the rest is what generate takes."""
    configs = [member.config for member in members if member.config is not None]
    as_json, rates = any(c.json for c in configs), configs[0].rates if configs else None
    for config in configs:
        with open_dict(config):
            del config["json"], config["rates"]
    if rates is None:
        return as_json, []
    listed = isinstance(rates, (ListConfig, list))
    return as_json, [str(folder) for folder in (rates if listed else str(rates).split(","))]


def _recorded(folder: str) -> Store:
    store = open_store(folder)
    if not any(log.done for log in Logs(store).read()):
        raise LmmsteerError(
            f"rates={folder}: no shard that was answered is recorded there.",
            "Name the output folder of a run: rates=FOLDER[,FOLDER]",
        )
    return store


def facts(ahead: Prospect, folders: Sequence[str]) -> Facts:
    """Every number of the plan, as JSON has it."""
    cells = [_cell(one) for one in ahead.cells]
    seconds, price = ahead.seconds(), ahead.price()
    return {
        "out": ahead.store.root,
        "cells": cells,
        "refused": [_refused(r, ahead.waiting.get(r.label)) for r in ahead.plan.refused],
        "total": _total(ahead),
        "card_hours": _hours(ahead.card_seconds()),
        "card_hours_unknown": ahead.unknown,
        "workers": ahead.workers(),
        "hours": None if seconds is None else _hours(seconds),
        "price": None if price is None else price.numbers(),
        **_sizes(ahead),
        "rates": list(folders),
    }


def _cell(one: Ahead) -> Facts:
    return {**one.names, "shards_done": one.extent.shards - one.shards_left, **_ahead(one)}


def _ahead(one: Ahead) -> Facts:
    return {
        "rows": one.extent.rows,
        "rows_left": one.rows_left,
        "shards": one.extent.shards,
        "shards_left": one.shards_left,
        "manifest": one.extent.made,
        "card_hours": None if one.forecast is None else _hours(one.forecast),
        "rate": None if one.match is None else _rate(one.match),
        "response_bytes_left": one.bytes,
    }


def _rate(match: Match) -> Facts:
    """What the rate was taken from; rows_per_second: of one card."""
    return {
        "rows_per_second": float(f"{match.pace.rows_per_second:.4g}"),
        "recorded_shards": len(match.pace.done),
        "recorded_in": sorted({one.store.root for one in match.found}),
        "recorded_cells": [one.label for one in match.found],
        "device": match.card,
        "same_method": match.same_method,
        "other_settings": list(match.unlike),
    }


def _refused(refusal: Refusal, waiting: Ahead | None) -> Facts:
    return {
        "member": refusal.label,
        "missing_artifact": isinstance(refusal.error, MissingArtifact),
        "error": refusal.error.what,
        "mend": refusal.error.mend,
        **(_ahead(waiting) if waiting is not None else {}),
    }


def _total(ahead: Prospect) -> Facts:
    everything = ahead.all
    return {
        "cells": len(ahead.cells),
        "waiting_for_artifacts": len(ahead.waiting),
        "pictures": sum(extent.pictures for extent in ahead.extents),
        "rows": sum(one.extent.rows for one in everything),
        "rows_left": sum(one.rows_left for one in everything),
        "shards": sum(one.extent.shards for one in everything),
        "shards_left": sum(one.shards_left for one in everything),
    }


def _hours(seconds: Forecast) -> Mapping[str, float | None]:
    return seconds.times(1 / HOUR).numbers()


def _sizes(ahead: Prospect) -> Facts:
    """Files and bytes that are still to be written, and whether the disk has room for them."""
    known = [one.bytes for one in ahead.all if one.bytes is not None]
    manifests = sum(extent.bytes for extent in ahead.extents)
    free = sizes.free_bytes(ahead.store)
    total, unknown = manifests + sum(known), len(ahead.all) - len(known)
    fits = None if free is None or (unknown and total <= free) else total <= free
    return {
        "bytes": {
            "manifests": manifests,
            "responses": sum(known),
            "responses_unknown_cells": unknown,
            "total": total,
            "free": free,
            "fits": fits,
        },
        "files": {
            "manifests": sum(extent.files for extent in ahead.extents),
            "responses": sum(one.shards_left for one in ahead.all),
            "records": sum(not one.recorded for one in ahead.all),
        },
    }
