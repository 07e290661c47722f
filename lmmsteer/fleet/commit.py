"""What is committed of a shard, and what is there already. Knows no model: it imports no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from lmmsteer import parts
from lmmsteer.errors import RunFailed
from lmmsteer.fleet.task import Report, Task
from lmmsteer.schema import RESPONSES, Request, Response, to_table
from lmmsteer.store import Store

REASONS = {
    "worker_died": "the process that answered this row, and no other, ended without a word",
    "row_hung": "this row, and no other, made no progress until its worker was ended",
}


def commit(store: Store, task: Task, part: str, responses: Sequence[Response]) -> Report:
    """Make a shard's part, unless another's is there first. Storage's refusal is reported."""
    failed = Counter(r.error_kind for r in responses if r.error_kind is not None)
    try:
        created = store.create(f"{task.folder}/{part}", part_bytes(responses, task, failed))
    except RunFailed as error:
        return Report(failure="storage", error=f"{error.what} {error.mend}".strip())
    tokens = sum(r.new_tokens or 0 for r in responses)
    return Report(len(responses), dict(failed), new_tokens=tokens, created=created)


def part_bytes(responses: Sequence[Response], task: Task, failed: Mapping[str, int]) -> bytes:
    """The response part; its footer counts the failed rows by kind."""
    extra = {"lmmsteer.failed": json.dumps(dict(sorted(failed.items())))}
    return parts.to_bytes(to_table(responses, RESPONSES), task.fingerprint, extra)


def found(store: Store, task: Task, part: str) -> Report | None:
    """The report of a part that is there already: another driver's worker made it."""
    path = f"{task.folder}/{part}"
    if not store.exists(path):
        return None
    try:
        footer = parts.read_footer(store, path)
    except parts.DamagedPart:
        if store.exists(path):
            raise
        return None  # Moved aside a moment ago, to be made again.
    failed = json.loads(footer.meta.get("lmmsteer.failed", "{}"))
    return Report(footer.rows, failed, created=False)


def not_shown(request: Request, kind: str) -> Response:
    """The response of a row that kills a worker, so that it is shown to none."""
    return Response.failed(request, kind, REASONS.get(kind, kind))
