"""A worker without a model: production reads and commits around a text that is a pure function.

What it does to itself on the way is in the schedule's rules; nothing of that is in a text.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmmsteer import manifest, parts
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import commit
from lmmsteer.fleet.task import ModelSpec, Report, Task
from lmmsteer.schema import Request, Response
from lmmsteer.store import Store, open_store
from tests.chaos import world

Digests = tuple[str, str]


class Worker:
    """The methods of lmmsteer.fleet.worker.Worker, without torch."""

    def __init__(self, node: Callable[[], str]) -> None:
        self.node = node()
        self.spec: ModelSpec | None = None
        self.stage, self.count = "idle", 0
        self.stores: dict[str, Store] = {}
        self.rules: dict[str, Any] = {"rows": {}, "pause": 0.0}
        self.factor = 1.0

    def describe(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "node": self.node, "device": "fake"}

    def pulse(self) -> tuple[str, int]:
        return self.stage, self.count

    def load(self, spec: ModelSpec) -> Report:
        self.stage = "load"
        self._read_rules(spec.path)
        how = self.rules.get("load", {}).get(spec.name, "")
        if how == "error":
            return Report(failure="model", error=f"{spec.name} cannot be loaded.")
        suffer(how)
        self.spec = spec
        self.stage = "idle"
        return Report()

    def run(self, task: Task, part: str, digests: Digests, excluded: Mapping[int, str]) -> Report:
        return self._work(task, lambda store: self._run(store, task, part, digests, excluded))

    def probe(self, task: Task, part: str, digests: Digests, row: int) -> Report:
        return self._work(task, lambda store: self._probe(store, task, part, digests, row))

    def _run(
        self, store: Store, task: Task, part: str, digests: Digests, excluded: Mapping[int, str]
    ) -> Report:
        there = commit.found(store, task, part)
        if there is not None:
            return there
        started = time.monotonic()
        if f"{task.folder}/{part}" in self.rules.get("fail", ()):
            raise LmmsteerError(f"{part} is broken by the schedule.")
        requests = self._read(store, task, part, digests)
        responses = []
        for number, request in enumerate(requests):
            if number in excluded:
                responses.append(commit.not_shown(request, excluded[number]))
            else:
                responses.append(self._answer(request, task, len(requests)))
        self.stage = "commit"
        time.sleep(self.rules.get("late", 0.0) * self.factor)
        report = commit.commit(store, task, part, responses)
        if not report.failure:
            return Report(**{**vars(report), "seconds": time.monotonic() - started})
        return report

    def _probe(self, store: Store, task: Task, part: str, digests: Digests, row: int) -> Report:
        requests = self._read(store, task, part, digests)
        self._answer(requests[row], task, len(requests))
        return Report(rows=1)

    def _read(self, store: Store, task: Task, part: str, digests: Digests) -> Sequence[Request]:
        base = manifest.folder(task.dataset)
        for kind, digest in zip(("rows", "images"), digests, strict=True):
            meta = parts.read_footer(store, f"{base}/{kind}/{part}").meta
            if meta["lmmsteer.digest"] != digest:
                raise LmmsteerError(f"{part} is not the part that the manifest names.")
        manifest.read_pictures(store, task.dataset, part)
        return manifest.read_rows(store, task.dataset, part)

    def _answer(self, request: Request, task: Task, neighbours: int) -> Response:
        """The text depends on the row, the cell and how many rows were answered together."""
        self.stage = "generate"
        suffer(self.rules["rows"].get(f"{task.folder} {request.row_id}", ""))
        time.sleep(self.rules["pause"] * self.factor)
        self.count += 1
        key = f"{request.row_id} {request.seed} {task.fingerprint} {neighbours}"
        digest = hashlib.sha256(key.encode())
        text = f"{request.prompt} {digest.hexdigest()}"
        ids = list(digest.digest())
        return Response(
            request.row_id,
            request.image_id,
            request.prompt_id,
            request.seed,
            text=text,
            token_ids=ids,
            new_tokens=len(ids),
            finish_reason="eos",
        )

    def _work(self, task: Task, work: Callable[[Store], Report]) -> Report:
        if self.spec != task.model:
            return Report(failure="model", error=f"{task.model.name} is not loaded here.")
        if task.out not in self.stores:
            self.stores[task.out] = open_store(task.out)
        self.stage = "start"
        try:
            return work(self.stores[task.out])
        except LmmsteerError as error:
            return Report(failure="shard", error=f"{error.what} {error.mend}".strip())
        finally:
            self.stage = "idle"

    def _read_rules(self, out: str) -> None:
        self.rules = world.read_rules(out)
        self.factor = speed(out, self.rules)


def suffer(how: str) -> None:
    """What a row does to the process that answers it."""
    if how == "exit":
        os._exit(139)
    elif how == "segv":
        ctypes.string_at(0)
    elif how == "kill":  # As the system's out-of-memory killer does.
        os.kill(os.getpid(), signal.SIGKILL)
    while how == "hang":
        time.sleep(60)


def speed(out: str, rules: Mapping[str, Any]) -> float:
    """How much slower than others: 1 to 3 by process; the first to ask is the straggler, if any."""
    slow = float(rules.get("straggler", 0))
    if not slow:
        return 1.0 + os.getpid() % 3
    try:
        os.close(os.open(f"{out}.straggler", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return 1.0
    return slow
