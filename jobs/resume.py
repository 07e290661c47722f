"""resume: what is missing of everything that was started in an output folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jobs import explain
from jobs.generate import carry_out
from lmmsteer import config as configs
from lmmsteer.config import ResumeConfig
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import cells
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.plan import Plan, store_of
from lmmsteer.store import Store


def run(members: list[Member]) -> int:
    """Restore every recorded cell and do what is left; `retry` first moves failed shards aside."""
    store = store_of(members, lambda error: explain.sentence(error, "resume"))
    asked = configs.typed(members[0].config, ResumeConfig, "")
    records = cells.load_all(store)
    if not records:
        raise LmmsteerError(
            f"{store.root} holds no cell that was started.", "Start one with: lmmsteer generate"
        )
    plan = Plan.of_records(store, [_with(record, asked) for record in records])
    if asked.retry:
        _move_failed(plan, store, asked.retry)
    return carry_out(plan, "resume")


def _with(record: cells.CellRecord, asked: ResumeConfig) -> cells.CellRecord:
    """The recorded config with what does not define answers taken from this command."""
    values = {
        "cluster": vars(asked.cluster),
        "max_failed_share": asked.max_failed_share,
        "mixed_stack": asked.mixed_stack,
    }
    return replace(record, config={**record.config, **values})


def _move_failed(plan: Plan, store: Store, retry: Any) -> None:
    """Shards with failed rows (of the named kinds) go to out/trash, to be done again."""
    wanted = None if retry is True else _kinds(retry)
    stamp = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{time.time_ns() % 1_000_000_000:09d}"
    for job in plan.jobs:
        for name in sorted(cells.done(store, job.cell.folder)):
            _, failed = cells.failed_rows(store, job.cell.folder, {name})
            if failed and (wanted is None or wanted & set(failed)):
                path = f"{job.cell.folder}/{name}"
                store.move(path, f"trash/{stamp}/{path}")
                print(f"{path}: moved to {store.root}/trash/{stamp}, to be done again")


def _kinds(retry: Any) -> set[str]:
    kinds = [retry] if isinstance(retry, str) else retry
    if isinstance(kinds, Sequence) and kinds and all(isinstance(k, str) for k in kinds):
        return set(kinds)
    raise LmmsteerError(
        f"retry={retry} is neither true nor a list of error kinds.",
        "For example retry=true or retry=[picture_broken]",
    )
