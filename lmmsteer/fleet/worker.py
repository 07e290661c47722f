"""The Ray actor: pinned to one card, loads a model once, runs shards. Holds no logic of its own."""

from __future__ import annotations

import os
import socket
import traceback
from dataclasses import astuple, replace
from typing import Any

import torch

from lmmsteer import device
from lmmsteer.config import EngineConfig
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import engines, fitting, shard
from lmmsteer.fleet.engines import Engine
from lmmsteer.fleet.task import FitTask, ModelSpec, Report, Task
from lmmsteer.models import lmm
from lmmsteer.store import open_store


class Worker:
    """One card, one model at a time. Whatever goes wrong comes back as a Report, never as text."""

    def __init__(self, kind: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.device = device.detect(kind)
        self.spec: ModelSpec | None = None
        self.lmm: lmm.Lmm | None = None
        self.engines: dict[tuple[Any, ...], Engine] = {}

    def describe(self) -> dict[str, Any]:
        """Who this is, for the log."""
        return {"pid": os.getpid(), "host": socket.gethostname(), "device": self.device.name()}

    def run(self, task: Task, part: str) -> Report:
        """Answer one shard."""

        def answer(model: lmm.Lmm) -> Report:
            return shard.answer(open_store(task.out), model, task, part, self._engine(task.engine))

        return self._work(task.model, answer)

    def fit(self, task: FitTask) -> Report:
        """Fit one method and write its artifact."""
        return self._work(task.model, lambda m: fitting.fit(open_store(task.out), m, task))

    def _engine(self, config: EngineConfig) -> Engine:
        """One engine for each config, with all that it has prepared for the model."""
        key = astuple(config)
        if key not in self.engines:
            self.engines = {key: engines.open_engine(config)}
        return self.engines[key]

    def _work(self, spec: ModelSpec, work: Any) -> Report:
        loads: tuple[str, ...] = ()
        try:
            if spec != self.spec:
                self._load(spec)
                loads = (spec.name,)
        except Exception as error:
            return Report(failure="model", error=_say(error), loads=loads)
        try:
            return replace(work(self.lmm), loads=loads)
        except torch.OutOfMemoryError as error:
            return Report(
                failure="shard", error=f"{_say(error)} Try a smaller engine.slots.", loads=loads
            )
        except Exception as error:
            return Report(failure="shard", error=_say(error), loads=loads)

    def _load(self, spec: ModelSpec) -> None:
        # What the old model took goes before the new one comes.
        self.lmm, self.spec, self.engines = None, None, {}
        self.lmm = lmm.load(
            name=spec.name,
            path=spec.path,
            revision=spec.revision,
            dtype=spec.dtype,
            family=spec.family,
            device=self.device,
            digest=spec.digest,
        )
        self.spec = spec


def _say(error: Exception) -> str:
    if isinstance(error, LmmsteerError):
        return f"{error.what} {error.mend}".strip()
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text} ({os.path.basename(last.filename)}:{last.lineno})."
