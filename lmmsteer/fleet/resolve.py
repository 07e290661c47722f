"""From a composed config, or a recorded cell, to a job: everything that defines it, checked.

Refuses before anything is written; loads no weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lmmsteer import config as configs
from lmmsteer import datasets, manifest
from lmmsteer.config import GenerateConfig
from lmmsteer.datasets.base import DataSet
from lmmsteer.datasets.sampled import sampled
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import cluster, engines, stack
from lmmsteer.fleet.cells import CellRecord
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.steering import (
    Place,
    Steering,
    fit_fields,
    method_of,
    needs_attribute,
    steering_of,
)
from lmmsteer.fleet.task import ModelSpec, Task
from lmmsteer.methods.artifact import ModelFacts
from lmmsteer.models import files, gaudi
from lmmsteer.models.families import Family, family_of, feature_levels
from lmmsteer.schema import SCHEMA_VERSION, Cell
from lmmsteer.store import Store


@dataclass(frozen=True)
class Job:
    """One cell of a plan, before its manifest is there."""

    config: GenerateConfig
    steering: Steering
    dataset: DataSet
    identity: Mapping[str, Any]
    record: CellRecord
    task: Task

    @property
    def cell(self) -> Cell:
        return self.record.cell


def typed_config(composed: Any) -> GenerateConfig:
    """A composed config as its dataclass, every group typed, and `out` there."""
    typed = configs.typed(composed, GenerateConfig, "")
    positive = {
        "shard_images": typed.shard_images,
        "limit": typed.limit,
        "cluster.workers": typed.cluster.workers,
        "device.threads": typed.device.threads,
        "engine.slots": typed.engine.slots,
    }
    for name, value in positive.items():
        if value is not None and value < 1:
            raise LmmsteerError(
                f"{name}={value} is not a positive number.", f"Give {name}=1 or more."
            )
    if not typed.seeds:
        raise LmmsteerError("seeds=[] asks for no answers.", "Give at least one: seeds=[0]")
    _check_sampling(typed.sampling)
    return typed


def model_spec(config: GenerateConfig | Any, suffix: str = "") -> tuple[ModelSpec, Path]:
    """The model's files, found and digested; no weights are loaded."""
    model = config.model
    folder = _located(model.path, model.revision)
    name = model.name or _basename(model.path)
    path = str(folder)
    spec = ModelSpec(name + suffix, path, model.revision, model.dtype, model.family, _digest(path))
    return spec, folder


def manifest_of(config: GenerateConfig, name: str) -> tuple[DataSet, dict[str, Any]]:
    """The data set that a config asks for, and the identity of its manifest."""
    dataset = datasets.open_dataset(config.dataset)
    drawn = sampled(dataset, config.sample)
    identity = manifest.identity(
        datasets.describe(dataset, config.dataset["loader"]),
        configs.prompts(config.prompts),
        config.seeds,
        config.limit,
        config.shard_images,
        asdict(config.sample) if config.sample.each is not None else None,
    )
    return drawn, identity


def resolve(member: Member, store: Store) -> Job:
    """A member of a sweep as a job. Raises LmmsteerError for everything that cannot work."""
    assert member.config is not None
    plain = OmegaConf.to_container(member.config, resolve=True)
    assert isinstance(plain, dict)
    config = typed_config(plain)
    _, method = method_of(config)
    spec, _ = model_spec(config, member.suffix("model"))
    attribute = config.attribute.name + member.suffix("attribute")
    if not needs_attribute(method):
        attribute = "none"
    cell = Cell(
        spec.name,
        method.name + member.suffix("method"),
        attribute,
        config.dataset["name"] + member.suffix("dataset"),
    )
    fitted = method.name + member.suffix("method", fit_fields(method))
    return _job(store, config, {str(k): v for k, v in plain.items()}, cell, fitted)


def restore(record: CellRecord, store: Store) -> Job:
    """A recorded cell as the job it was, with what its model and artifact are now."""
    config = typed_config(record.config)
    return _job(store, config, record.config, record.cell, record.cell.method, record)


def _job(
    store: Store,
    config: GenerateConfig,
    plain: Mapping[str, Any],
    cell: Cell,
    fitted: str,
    recorded: CellRecord | None = None,
) -> Job:
    key, method = method_of(config)
    kind = cluster.device_of(config.cluster, config.device).kind
    engines.check(config.engine)
    spec, folder = model_spec(config)
    adapted = engines.adapts(config.engine, kind)
    if adapted:
        gaudi.check(family(spec, folder), config.device.mode)
    spec = replace(spec, name=cell.model, adapted=adapted)
    dataset, identity = manifest_of(config, cell.dataset)
    facts = facts_of(spec, folder)
    place = Place(
        store=store,
        config=config,
        facts=facts,
        family=family(spec, folder),
        model=cell.model,
        attribute=cell.attribute,
        fitted=fitted,
        recorded=recorded.artifact if recorded else None,
        parts=recorded.parts if recorded else (),
    )
    steering = steering_of(place, key, method)
    defining = _fingerprint(config, steering, spec, identity)
    record = CellRecord(
        cell,
        plain,
        defining,
        stack_of(config),
        artifact=steering.where,
        parts=steering.addresses,
    )
    task = Task(
        out=store.root,
        folder=cell.folder,
        dataset=cell.dataset,
        model=spec,
        method=steering.spec,
        sampling=config.sampling,
        engine=config.engine,
        fingerprint=record.digest,
    )
    return Job(config, steering, dataset, identity, record, task)


def family(spec: ModelSpec, folder: Path) -> Family:
    """The record of the model's family, from its config alone."""
    return family_of(files.model_type(folder), spec.family)


def facts_of(spec: ModelSpec, folder: Path) -> ModelFacts:
    """What the model's files say of it."""
    return ModelFacts(
        name=spec.name,
        digest=spec.digest,
        d_model=files.d_model(folder),
        n_layers=files.n_layers(folder),
        vocab_size=files.vocab_size(folder),
        tokenizer=files.tokenizer_digest(folder),
        feature_levels=feature_levels(files.config(folder)),
    )


def stack_of(config: Any) -> dict[str, Any]:
    """What the answers are computed with: another of these may change their last bits."""
    slots = {"slots": config.engine.slots} if hasattr(config, "engine") else {}
    kind = cluster.device_of(config.cluster, config.device).kind
    return {
        **stack.versions(),
        "device": kind,
        "threads": config.device.threads,
        **({"mode": config.device.mode or "lazy"} if kind == "hpu" else {}),
        **slots,
    }


def _fingerprint(
    config: GenerateConfig, steering: Steering, spec: ModelSpec, identity: Mapping[str, Any]
) -> dict[str, Any]:
    engine = {k: v for k, v in asdict(config.engine).items() if k != "slots"}
    return {
        "model": {"digest": spec.digest, "revision": spec.revision, "dtype": spec.dtype},
        "method": steering.defining,
        "attribute": steering.words,
        "manifest": dict(identity),
        "sampling": asdict(config.sampling),
        "engine": engine,
        "schema": SCHEMA_VERSION,
    }


def _check_sampling(sampling: configs.SamplingConfig) -> None:
    rules = {
        "temperature": sampling.temperature >= 0,
        "top_k": sampling.top_k >= 0,
        "top_p": 0 < sampling.top_p <= 1,
        "max_new_tokens": sampling.max_new_tokens >= 1,
    }
    for key, right in rules.items():
        if not right:
            raise LmmsteerError(
                f"sampling.{key}={getattr(sampling, key)} is out of range.",
                "temperature >= 0, top_k >= 0, 0 < top_p <= 1, max_new_tokens >= 1",
            )


def _basename(path: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", path.rstrip("/").rpartition("/")[2])
    return name or "model"


@cache
def _located(path: str, revision: str | None) -> Path:
    folder = files.locate(path, revision)
    files.check(folder)
    return folder


@cache
def _digest(folder: str) -> str:
    return files.digest(Path(folder))
