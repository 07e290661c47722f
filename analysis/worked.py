"""What workers took for the parts that they answered, as out/logs has it.

A line that is torn does not count, nor does a shard whose part was another worker's. Knows the
logs and nothing of what is measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lmmsteer.store import Store

VERBS = ("generate", "resume")


@dataclass(frozen=True)
class Worked:
    """One part: the worker's seconds, rows (`failed` of them without an answer), new tokens, the
    device's name, and its peak memory in bytes (None: not recorded). cold: the first that a worker
    answered of its model, with all that is prepared then."""

    part: str
    seconds: float
    rows: int = 0
    failed: int = 0
    tokens: int = 0
    device: str = ""
    memory: int | None = None
    cold: bool = False


def worked(store: Store) -> Iterator[tuple[str, Worked]]:
    """The cell (as `str(cell)` names it) and the part of every line, the oldest log first."""
    logs = [(path.rpartition("/")[2], path) for path in store.list("logs")]
    logs = [(name, path) for name, path in logs if name.startswith(VERBS)]
    for _, path in sorted(logs, key=lambda log: (log[0].partition("-")[2], log[0])):
        warm: dict[int, str] = {}  # Workers, and the model that each has answered for last.
        for line in store.read_bytes(path).splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if _counts(event):
                yield event["cell"], _worked(event, _cold(event, warm))


def of_cells(store: Store) -> dict[str, dict[str, Worked]]:
    """{cell: {part: what it took}}; of a part that was made again, the last time."""
    found: dict[str, dict[str, Worked]] = {}
    for cell, one in worked(store):
        found.setdefault(cell, {})[one.part] = one
    return found


def _counts(event: Any) -> bool:
    done = isinstance(event, dict) and event.get("event") == "done" and event.get("created", True)
    return bool(done) and isinstance(event.get("cell"), str) and _positive(event.get("seconds"))


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 0


def _cold(event: dict[str, Any], warm: dict[int, str]) -> bool:
    worker, model = event.get("worker"), event["cell"].partition(" ")[0]
    if not isinstance(worker, int):  # Not known of old logs.
        return False
    before, warm[worker] = warm.get(worker), model
    return before != model


def _worked(event: dict[str, Any], cold: bool) -> Worked:
    failed = event.get("failed")
    return Worked(
        part=str(event.get("part", "")),
        seconds=float(event["seconds"]),
        rows=int(event.get("rows") or 0),
        failed=sum(failed.values()) if isinstance(failed, dict) else 0,
        tokens=int(event.get("new_tokens") or 0),
        device=str(event.get("device") or ""),
        memory=event.get("memory"),
        cold=cold,
    )
