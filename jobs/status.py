"""status: each cell of an output folder, from the folder alone, while it runs or after."""

from __future__ import annotations

import json
from typing import Any

from jobs import explain
from lmmsteer import config as configs
from lmmsteer import manifest
from lmmsteer.config import OutConfig
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import cells
from lmmsteer.fleet.launcher import Member
from lmmsteer.store import Store, open_store

LAST_ERRORS = 5


def run(members: list[Member]) -> int:
    """Exit code 0 where every cell is complete within its failed share, 1 where not."""
    if members[0].config is None:
        raise explain.sentence(members[0].error or ValueError("no config"), "status")
    asked = configs.typed(members[0].config, OutConfig, "")
    store = open_store(asked.out)
    records = cells.load_all(store)
    if not records:
        raise LmmsteerError(
            f"{store.root} holds no cell that was started.", "Start one with: lmmsteer generate"
        )
    rows = [_describe(store, record) for record in records]
    log = _last_log(store)
    if asked.json:
        print(json.dumps({"out": store.root, "cells": rows, **log}, indent=1))
    else:
        _show(rows, log)
    return 0 if all(row["state"] == "complete" for row in rows) else 1


def _describe(store: Store, record: cells.CellRecord) -> dict[str, Any]:
    cell = record.cell
    made = manifest.load(store, cell.dataset)
    planned = {shard.name for shard in made.shards} if made is not None else set()
    done = planned & cells.done(store, cell.folder)
    answered, failed = cells.failed_rows(store, cell.folder, done)
    rows = made.rows if made is not None else 0
    share = failed.total() / max(answered, 1)
    state = "complete" if rows and answered == rows else "incomplete"
    if share > record.config.get("max_failed_share", 0.01):
        state = "failed"
    return {
        **{k: getattr(cell, k) for k in ("model", "method", "attribute", "dataset")},
        "state": state,
        "rows": rows,
        "rows_done": answered,
        "rows_left": rows - answered,
        "shards": len(planned),
        "shards_done": len(done),
        "shards_left": len(planned) - len(done),
        "failed": dict(sorted(failed.items())),
    }


def _last_log(store: Store) -> dict[str, Any]:
    """The newest log's rate over its own shards, and its last errors."""
    names = [
        n for n in store.list("logs") if n.rpartition("/")[2].startswith(("generate-", "resume-"))
    ]
    if not names:
        return {"log": None, "rows_per_second": None, "errors": []}
    newest = max(names, key=lambda name: name.partition("-")[2])
    lines = store.read_bytes(newest).decode("utf-8", "replace").splitlines()
    events = [event for event in map(_parse, lines) if event is not None]
    done = [e for e in events if e["event"] == "done"]
    workers = len({e["worker"] for e in done})
    seconds = sum(e["seconds"] for e in done)
    rate = sum(e["rows"] for e in done) / seconds * workers if seconds else None
    errors = [e for e in events if e["event"] in ("failure", "death")][-LAST_ERRORS:]
    return {"log": newest, "rows_per_second": rate and round(rate, 2), "errors": errors}


def _parse(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:  # the last line of a driver that died while it wrote
        return None


def _show(rows: list[dict[str, Any]], log: dict[str, Any]) -> None:
    for row in rows:
        name = " ".join(row[k] for k in ("model", "method", "attribute", "dataset"))
        failed = ", ".join(f"{n} {kind}" for kind, n in row["failed"].items()) or "0"
        print(
            f"{name}: {row['state']}, {row['shards_done']} of {row['shards']} shards,"
            f" {row['rows_done']} of {row['rows']} rows, failed rows: {failed}"
        )
    left = sum(row["rows_left"] for row in rows)
    rate = log["rows_per_second"]
    if left and rate:
        print(
            f"{left} rows left; {rate:.1f} rows/s in the last run: about {left / rate / 60:.0f} min"
        )
    for error in log["errors"]:
        where = " ".join(str(error[k]) for k in ("cell", "part") if k in error)
        print(f"last errors: {where or error['event']}: {error.get('error', '')}")
    if log["errors"]:
        print(f"more in {log['log']}")
