"""plan: what a command would do, with nothing written and no weights loaded."""

from __future__ import annotations

import json
from typing import Any

from omegaconf import open_dict

from jobs import explain
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.plan import Plan
from lmmsteer.fleet.resolve import Job
from lmmsteer.fleet.steering import MissingArtifact


def run(members: list[Member]) -> int:
    """Cells, rows and shards done and left, and what is missing with the command that makes it."""
    as_json = any(m.config is not None and m.config.json for m in members)
    for config in (m.config for m in members if m.config is not None):
        with open_dict(config):
            del config["json"]  # the rest is what generate takes
    plan = Plan.of_members(members, lambda error: explain.sentence(error, "plan"))
    rows = [_describe(plan, job) for job in plan.jobs]
    refused = [
        {
            "member": r.label,
            "missing_artifact": isinstance(r.error, MissingArtifact),
            "error": r.error.what,
            "mend": r.error.mend,
        }
        for r in plan.refused
    ]
    if as_json:
        print(json.dumps({"out": plan.store.root, "cells": rows, "refused": refused}, indent=1))
    else:
        _show(rows, refused)
    if refused and not rows and not all(r["missing_artifact"] for r in refused):
        return 2
    return 0


def _describe(plan: Plan, job: Job) -> dict[str, Any]:
    """A job in numbers; pictures of a manifest that is not made yet are not counted."""
    cell = job.cell
    names = {k: getattr(cell, k) for k in ("model", "method", "attribute", "dataset")}
    made = plan.manifests.get(cell.dataset)
    if made is None:
        unknown = dict.fromkeys(("rows", "rows_left", "shards", "shards_done", "shards_left"))
        return {**names, **unknown, "manifest": False}
    left = plan.left(job)
    return {
        **names,
        "rows": made.rows,
        "rows_left": sum(shard.rows for shard in left),
        "shards": len(made.shards),
        "shards_done": len(made.shards) - len(left),
        "shards_left": len(left),
        "manifest": True,
    }


def _show(rows: list[dict[str, Any]], refused: list[dict[str, Any]]) -> None:
    for row in rows:
        cell = " ".join(row[k] for k in ("model", "method", "attribute", "dataset"))
        if row["manifest"]:
            print(
                f"{cell}: {row['shards_done']} of {row['shards']} shards done,"
                f" {row['rows_left']} of {row['rows']} rows left"
            )
        else:
            print(f"{cell}: its manifest is not made yet (lmmsteer manifest, or generate makes it)")
    for refusal in refused:
        print(f"{refusal['member']}: {refusal['error']}\n  {refusal['mend']}")
    known = [row for row in rows if row["manifest"]]
    total = sum(row["rows_left"] for row in known)
    print(f"{len(rows)} cells, {total} rows left in the manifests that are there")
