"""What a worker is told: a cell, resolved so far that only the model and the shard are missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lmmsteer.config import EngineConfig, SamplingConfig


@dataclass(frozen=True)
class ModelSpec:
    """Which weights: two tasks with equal specs share one load.

    adapted: as optimum-habana's models (engine=reference on Gaudi cards).
    """

    name: str
    path: str
    revision: str | None
    dtype: str
    family: str
    digest: str
    adapted: bool = False


@dataclass(frozen=True)
class MethodSpec:
    """A method of METHODS, its parameters, its attribute and where its artifact lies.

    parts: the methods that it is made of.
    """

    method: str
    parameters: dict[str, Any]
    attribute: dict[str, Any]
    artifact: str | None = None
    parts: tuple[MethodSpec, ...] = ()


@dataclass(frozen=True)
class Task:
    """Everything about a cell that its shards share. Small, and sent with every shard."""

    out: str
    folder: str
    dataset: str
    model: ModelSpec
    method: MethodSpec
    sampling: SamplingConfig
    engine: EngineConfig
    fingerprint: str


@dataclass(frozen=True)
class FitTask:
    """What to learn, from which manifest's pictures, and where the artifact goes.

    hand: which of `hands` workers at this fit it is for; the first makes the artifact.
    """

    out: str
    path: str
    dataset: str
    parts: tuple[str, ...]
    model: ModelSpec
    method: MethodSpec
    engine: EngineConfig
    fingerprint: dict[str, Any] = field(default_factory=dict)
    hand: int = 0
    hands: int = 1


@dataclass(frozen=True)
class Report:
    """What came of a shard or a fit.

    created: False where another's part was there first. engine: what the engine says of its run;
    said: what a fit has to say of its way. memory: bytes that its device, or on a processor the
    worker, took at the most meanwhile (None: not known). failure: None, `model` (it cannot be
    loaded), `shard`, or `storage` (what was answered cannot be kept).
    """

    rows: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    new_tokens: int = 0
    created: bool = True
    engine: dict[str, Any] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    memory: int | None = None
    failure: str | None = None
    error: str = ""
