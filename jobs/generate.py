"""generate: what is left of a cell or a sweep, answered by the fleet."""

from __future__ import annotations

import sys
from typing import Any

from jobs import explain
from lmmsteer.fleet.driver import Driver, Failure, Item, Log
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.plan import Plan
from lmmsteer.fleet.progress import Display
from lmmsteer.fleet.task import Report


def run(members: list[Member]) -> int:
    """Plan, refuse or begin, answer, and say what came of it."""
    plan = Plan.of_members(members, lambda error: explain.sentence(error, "generate"))
    return carry_out(plan, "generate")


def carry_out(plan: Plan, verb: str) -> int:
    """Answer what is left of a plan; shared with resume."""
    if not plan.jobs:
        return refuse(plan)
    plan.begin()
    items = plan.items()
    log = Log(plan.store, verb)
    failures: list[Failure] = []
    with Display(sum(item.rows for item in items), verb, enabled=bool(items)) as display:

        def on_report(item: Item, report: Report) -> None:
            display.add(item.rows, sum(report.failed.values()))

        for device, cluster, group in _by_machine(plan, items):
            failures += Driver(cluster, device, log, on_report).run(group)
    return conclude(plan, failures)


def refuse(plan: Plan) -> int:
    """Nothing can run: say why, once for each reason."""
    for refusal in plan.refused:
        prefix = f"{refusal.label}: " if len(plan.refused) > 1 else ""
        print(f"lmmsteer: {prefix}{refusal.error.what}", file=sys.stderr)
        if refusal.error.mend:
            print(refusal.error.mend, file=sys.stderr)
    return 2


def conclude(plan: Plan, failures: list[Failure]) -> int:
    """A line for each cell, each failure by name, and the exit code that the listing justifies."""
    for failure in failures:
        print(f"failed: {failure.label} {failure.part}: {failure.error}", file=sys.stderr)
    refuse(plan)
    planned = done = 0
    bad = False
    kinds: dict[str, int] = {}
    for job in plan.jobs:
        rows, answered, failed = plan.counts(job)
        planned, done = planned + rows, done + answered
        for kind, count in failed.items():
            kinds[kind] = kinds.get(kind, 0) + count
        share = failed.total() / max(answered, 1)
        bad |= share > job.config.max_failed_share
        print(f"{job.cell}: {answered} of {rows} rows" + _failed(dict(failed)))
    missing = planned - done
    state = "complete" if not missing else f"{missing} rows missing, the same command does them"
    limit = f", more than max_failed_share={plan.jobs[0].config.max_failed_share}" if bad else ""
    print(f"{done} of {planned} rows in {plan.store.root}: {state}{_failed(kinds)}{limit}")
    return 1 if missing or bad or failures or plan.refused else 0


def _failed(kinds: dict[str, int]) -> str:
    named = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"; failed rows: {named}" if named else "; failed rows: 0"


def _by_machine(plan: Plan, items: list[Item]) -> list[tuple[Any, Any, list[Item]]]:
    """Items by the device and cluster that their cells ask for: one group in all but odd sweeps."""
    groups: list[tuple[Any, Any, list[Item]]] = []
    config = {job.cell.folder: job.config for job in plan.jobs}
    for item in items:
        asked = config[item.task.folder]  # type: ignore[union-attr]
        for device, cluster, group in groups:
            if (device, cluster) == (asked.device, asked.cluster):
                group.append(item)
                break
        else:
            groups.append((asked.device, asked.cluster, [item]))
    return groups
