"""generate: what is left of a cell or a sweep, answered by the fleet."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Sequence, Set

from jobs import explain
from lmmsteer.config import GenerateConfig
from lmmsteer.fleet import run as fleet
from lmmsteer.fleet.journal import Journal, place_among_drivers
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.plan import Plan
from lmmsteer.fleet.progress import Display
from lmmsteer.fleet.resolve import Job
from lmmsteer.fleet.task import Report
from lmmsteer.fleet.work import Failure, Item
from lmmsteer.store import require_free

LEAST_FREE = 64 << 20  # Bytes: below, no run is begun that the next part would end.


def run(members: list[Member]) -> int:
    """Plan, refuse or begin, answer, and say what came of it."""
    plan = Plan.of_members(members, lambda error: explain.sentence(error, "generate"))
    for line in licences([(j.cell.dataset, j.config) for j in plan.jobs], set(plan.manifests)):
        print(line, flush=True)
    return carry_out(plan, "generate")


def carry_out(plan: Plan, verb: str) -> int:
    """Answer what is left of a plan; shared with resume."""
    if not plan.jobs:
        return refuse(plan)
    require_free(plan.store, LEAST_FREE)
    commit = plan.store.commit  # Tried out by writing, before anything else is.
    plan.begin()
    plan.store.collect("responses")
    journal = Journal(plan.store, verb)
    place = place_among_drivers(plan.store)
    rows = sum(plan.rows_left(job) for job in plan.jobs)
    _note_start(plan, journal, rows, commit)
    code = 1
    try:
        failures = _answer(plan, verb, journal, rows, place)
        plan.store.collect("responses")  # What others' workers made is durable before it counts.
        code = conclude(plan, failures)
    finally:
        journal.write("end", code=code)
        journal.close()
    return code


def licences(asked: Iterable[tuple[str, GenerateConfig]], known: Set[str]) -> list[str]:
    """What the licence of a brought data set is, where no manifest of it is there yet."""
    found = {
        name: config.dataset["licence"]
        for name, config in asked
        if name not in known and config.dataset.get("path") and config.dataset.get("licence")
    }
    return [f"{name}: licence: {licence}" for name, licence in found.items()]


def _answer(plan: Plan, verb: str, journal: Journal, rows: int, place: float) -> list[Failure]:
    failures: list[Failure] = []
    with Display(rows, verb, enabled=rows > 0) as display:

        def on_report(item: Item, report: Report) -> None:
            display.add(report.rows, sum(report.failed.values()))

        for jobs in _by_machine(plan.jobs):
            config = jobs[0].config
            failures += fleet.carry_out(
                plan.lots(jobs, place),
                config.cluster,
                config.device,
                journal,
                on_report,
                plan.budgets(jobs),
                None if config.mixed_stack else jobs[0].record.stack,
            )
    return failures


def _note_start(plan: Plan, journal: Journal, rows: int, commit: str) -> None:
    cells = [str(job.cell) for job in plan.jobs]
    about = {"driver": journal.driver, "pid": os.getpid(), "host": socket.gethostname()}
    stack = plan.jobs[0].record.stack
    journal.write("start", **about, rows=rows, cells=cells, stack=stack, commit=commit)
    for refusal in plan.refused:
        error = refusal.error
        journal.write("refused", member=refusal.label, error=error.what, mend=error.mend)


def _by_machine(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs by the device and cluster that they ask for: one group in all but odd sweeps."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(f"{job.config.device} {job.config.cluster}", []).append(job)
    return list(groups.values())


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
        print(f"failed: {failure}", file=sys.stderr)
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
