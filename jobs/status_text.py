"""What `status` says in words: a line for each cell, the sum, the time left, what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.screen import between, clock, columns, counted, kinds, number
from lmmsteer.fleet.standing import NAMES

Facts = dict[str, Any]


def lines(found: Facts) -> list[str]:
    """Cells in the order of their folders, and the summary where a reader's eye ends."""
    return [*_cells(found["cells"]), *_summary(found)]


def screen(found: Facts) -> list[str]:
    """The summary, then the cells, those with work left first: a low terminal cuts off the end."""
    open_first = sorted(found["cells"], key=lambda cell: not cell["rows_left"])
    return [*_summary(found), "", *_cells(open_first)]


def _cells(cells: Sequence[Facts]) -> list[str]:
    shards = max(cell["shards"] for cell in cells)
    rows = max(cell["rows"] for cell in cells)
    return columns([_columns(cell, shards, rows) for cell in cells])


def _columns(cell: Facts, shards: int, rows: int) -> list[str]:
    pace = cell["rows_per_second_of_a_worker"]
    return [
        " ".join(cell[key] or "?" for key in NAMES),
        f"{cell['state']}, {counted(cell['shards_done'], cell['shards'], shards, 'shards')}",
        counted(cell["rows_done"], cell["rows"], rows, "rows"),
        f"failed rows: {kinds(cell['failed'])}",
        f"{pace:.2f} rows/s a worker" if pace else "",
    ]


def _summary(found: Facts) -> list[str]:
    said = [_sum(found["total"]), *_left(found), *map(_driver, _worth_telling(found["drivers"]))]
    for cell in found["cells"]:
        if not cell["manifest"]:
            said.append(f"{cell['folder']}: the manifest of {cell['dataset']} is not there")
        said += [f"damaged: {fault['error']}\n  {fault['mend']}" for fault in cell["damaged"]]
        if cell["state"] == "failed":
            said.append(_failed(cell, found["out"]))
    said += [_error(error) for error in found["errors"]]
    said += [f"more in {found['out']}/{log}" for log in _logs(found["errors"])]
    said += [_refused(refusal) for refusal in found["refused"]]
    return said


def _failed(cell: Facts, out: str) -> str:
    return (
        f"failed: {cell['folder']}: {sum(cell['failed'].values())} of {cell['rows_done']} rows,"
        f" more than max_failed_share={cell['max_failed_share']}"
        f"\n  Do their shards again with: lmmsteer resume retry=true out={out}"
    )


def _sum(total: Facts) -> str:
    states = ", ".join(f"{count} {state}" for state, count in sorted(total["states"].items()))
    failed = sum(total["failed"].values())
    return (
        f"{number(total['cells'], 'cell')} ({states}):"
        f" {total['shards_done']} of {total['shards']} shards,"
        f" {total['rows_done']} of {total['rows']} rows, failed rows: {failed}"
    )


def _left(found: Facts) -> list[str]:
    rows, left, rate = found["total"]["rows_left"], found["seconds_left"], found["rows_per_second"]
    if not rows:
        return []
    mend = f"lmmsteer resume out={found['out']}"
    if left is None:
        known = "how long they take is not known yet"
        return [f"{rows} rows left; {known if found['running'] else f'nobody is at work: {mend}'}"]
    takes = between(left, clock)
    borrowed = number(left["borrowed"], "cell")
    note = f"; {borrowed} at the pace of others, having none yet" if left["borrowed"] else ""
    if found["running"]:
        at = f" at {rate:.2f} rows/s" if rate else ""
        return [f"{rows} rows left: {takes}{at}, {number(found['workers'], 'worker')}{note}"]
    return [f"{rows} rows left; nobody is seen at work: {mend}", f"  {_again(left, takes)}{note}"]


def _again(left: Facts, takes: str) -> str:
    return f"with {number(left['workers'], 'worker')} as in the last run it takes {takes}"


def _worth_telling(drivers: Sequence[Facts]) -> list[Facts]:
    """The drivers at work, and the newest whatever it does."""
    return [d for d in drivers if d["state"] == "running" or d is drivers[-1]]


def _driver(driver: Facts) -> str:
    who = " ".join(str(word) for word in (driver["verb"], driver["driver"]) if word)
    where = f" on {driver['host']} (pid {driver['pid']})" if driver["host"] else ""
    last = f"last event {clock(driver['seconds_since_last_event'])} ago"
    workers = number(driver["workers"], "worker")
    says = {
        "running": f"{workers}, {number(driver['shards_done'], 'shard')} done, {last}",
        "silent": f"no end in its log, and {last}",
        "gone": f"no end in its log, its process is not there, {last}",
        "ended": f"ended with exit code {driver['code']}, {last}",
    }
    return f"driver {who}{where}: {says[driver['state']]}"


def _error(error: Facts) -> str:
    """A failure, death, quarantined row or broken-off cell in one line."""
    where = " ".join(str(error[key]) for key in ("cell", "part") if error.get(key))
    why = error.get("error") or error.get("reason") or ""
    if error["event"] == "quarantine":
        why = f"row {error.get('row_id', error.get('row'))} quarantined: {why}"
    if error["event"] == "breaker":
        why = f"stopped, {error.get('failed')} of {error.get('planned')} rows failed"
    if error["event"] == "death":
        why = f"worker {error.get('worker')} died: {why}"
    return f"last errors: {error.get('time', '')} {where or error['event']}: {why}"


def _logs(errors: Sequence[Facts]) -> list[str]:
    return list(dict.fromkeys(error["log"] for error in errors))


def _refused(refusal: Facts) -> str:
    mend = f"\n  {refusal['mend']}" if refusal.get("mend") else ""
    return f"refused in the last run: {refusal.get('member')}: {refusal.get('error')}{mend}"
