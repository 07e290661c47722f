"""The Ray actor: pinned to one card, loads a model once, runs shards. Holds no logic of its own."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from typing import Any

import torch

from lmmsteer import device
from lmmsteer.config import EngineConfig
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import engines, fitting, shard, stack
from lmmsteer.fleet.engines import Engine
from lmmsteer.fleet.metrics import Metrics
from lmmsteer.fleet.shard import Shard
from lmmsteer.fleet.task import FitTask, ModelSpec, Report, Task
from lmmsteer.models import lmm
from lmmsteer.store import Store, open_store

Digests = tuple[str, str] | None


class Worker:
    """One card, one model at a time. Whatever goes wrong comes back as a Report, never as text.

    node: names the machine to whoever has started this worker. mode, recipes: of a Gaudi card, see
    `DeviceConfig`. `pulse` is answered while the others work.
    """

    def __init__(
        self,
        kind: str,
        threads: int,
        node: Callable[[], str] = lambda: "",
        mode: str | None = None,
        recipes: str | None = None,
    ) -> None:
        self.threads, self.node = threads, node()
        if kind == "hpu":
            device.prepare_hpu(mode, recipes)
        self.device = device.detect(kind)
        self.spec: ModelSpec | None = None
        self.lmm: lmm.Lmm | None = None
        self.engines: dict[tuple[Any, ...], Engine] = {}
        self.stage = "idle"
        self.metrics = Metrics()
        self._alone: tuple[Task, str, Shard] | None = None
        self._stores: dict[str, Store] = {}

    def describe(self) -> dict[str, Any]:
        """Who this is, for the log; and with which software, for who joins what it makes."""
        return {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "node": self.node,
            "device": self.device.name(),
            "cards": os.environ.get("HABANA_VISIBLE_MODULES", ""),
            "stack": {**stack.versions(), "device": self.device.kind},
        }

    def pulse(self) -> tuple[str, int]:
        """The stage it is at, and a number that changes with every token step or picture."""
        return self.stage, sum(engines.progress(engine) for engine in list(self.engines.values()))

    def load(self, spec: ModelSpec) -> Report:
        """Load a model's weights, once for all that is then asked for it."""
        started = time.monotonic()
        torch.set_num_threads(self.threads)  # Of this thread: Ray runs `pulse` in another.
        self.stage = "load"
        try:
            self._load(spec)
        except Exception as error:
            return Report(failure="model", error=_say(error))
        finally:
            self.stage = "idle"
        return Report(seconds=round(time.monotonic() - started, 3))

    def run(self, task: Task, part: str, digests: Digests, excluded: Mapping[int, str]) -> Report:
        """Answer one shard; excluded: rows that kill a worker, and as what they are reported."""

        def answer(model: lmm.Lmm) -> Report:
            store = self._store(task.out)
            report = shard.found(store, task, part)
            if report is not None:
                return report
            self.device.watch_memory()
            report = self._shard(task, part, digests).answer(store, model, excluded)
            return replace(report, memory=self.device.peak_memory())

        return self._work(task.model, answer)

    def probe(self, task: Task, part: str, digests: Digests, row: int) -> Report:
        """Answer one row of a shard alone, and drop the answer: whether it can be is the point."""

        def answer(model: lmm.Lmm) -> Report:
            if self._alone is None or self._alone[:2] != (task, part):
                self._alone = (task, part, self._shard(task, part, digests))
            return self._alone[2].probe(self._store(task.out), model, row)

        return self._work(task.model, answer)

    def fit(self, task: FitTask) -> Report:
        """Fit one method and write its artifact."""
        return self._work(task.model, lambda m: fitting.fit(self._store(task.out), m, task))

    def _store(self, out: str) -> Store:
        """One store for all shards: what it has tried out once is known."""
        if out not in self._stores:
            self._stores[out] = open_store(out)
        return self._stores[out]

    def _shard(self, task: Task, part: str, digests: Digests) -> Shard:
        def stage(name: str) -> None:
            self.stage = name

        return Shard(task, part, self._engine(task.engine), stage, digests)

    def _engine(self, config: EngineConfig) -> Engine:
        """One engine for each config, with all that it has prepared for the model."""
        key = astuple(config)
        if key not in self.engines:
            self.engines = {key: engines.open_engine(config)}
        return self.engines[key]

    def _work(self, spec: ModelSpec, work: Callable[[lmm.Lmm], Report]) -> Report:
        if self.lmm is None or spec != self.spec:
            return Report(failure="model", error=f"{spec.name} is not loaded here.")
        torch.set_num_threads(self.threads)
        self.stage = "start"
        try:
            report = work(self.lmm)
        except torch.OutOfMemoryError as error:
            report = Report(failure="shard", error=f"{_say(error)} {self._smaller()}")
        except Exception as error:
            report = Report(failure="shard", error=_say(error))
        finally:
            self.stage = "idle"
        self.metrics.count(spec.name, report)
        return report

    def _smaller(self) -> str:
        """What to set where memory does not suffice: half of what was tried."""
        slots = max((engines.slots_of(e) for e in self.engines.values()), default=0)
        return f"Set engine.slots={max(1, slots // 2)} or less." if slots else "Set engine.slots=8."

    def _load(self, spec: ModelSpec) -> None:
        # What the old model took goes before the new one comes.
        self.lmm, self.spec, self.engines, self._alone = None, None, {}, None
        self.lmm = lmm.load(
            name=spec.name,
            path=spec.path,
            revision=spec.revision,
            dtype=spec.dtype,
            family=spec.family,
            device=self.device,
            digest=spec.digest,
            adapted=spec.adapted,
        )
        self.spec = spec


def _say(error: Exception) -> str:
    if isinstance(error, LmmsteerError):
        return f"{error.what} {error.mend}".strip()
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text} ({os.path.basename(last.filename)}:{last.lineno})."
