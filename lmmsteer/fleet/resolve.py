"""From a composed config, or a recorded cell, to a job: everything that defines it, checked.

Refuses before anything is written; loads no weights.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lmmsteer import config as configs
from lmmsteer import datasets, device, manifest
from lmmsteer.config import GenerateConfig
from lmmsteer.datasets.base import DataSet
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import engines
from lmmsteer.fleet.cells import CellRecord
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.task import MethodSpec, ModelSpec, Task
from lmmsteer.methods import METHODS
from lmmsteer.methods.artifact import Artifact, check
from lmmsteer.methods.base import Method
from lmmsteer.models import files
from lmmsteer.schema import SCHEMA_VERSION, Cell
from lmmsteer.store import Store, open_store

VERSIONS = ("torch", "transformers", "tokenizers", "numpy", "pillow", "pyarrow")


class MissingArtifact(LmmsteerError):
    """A fitted method whose artifact is not there yet; its mend is the fit command."""


@dataclass(frozen=True)
class Job:
    """One cell of a plan, before its manifest is there."""

    config: GenerateConfig
    method: Method
    dataset: DataSet
    identity: Mapping[str, Any]
    record: CellRecord
    task: Task
    artifact: Artifact | None = None

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


def method_of(config: GenerateConfig) -> tuple[str, Method]:
    """The method's key in METHODS (`method.uses`, else its name) and its dataclass, typed."""
    values = dict(config.method)
    key = values.pop("uses", None) or values.get("name")
    if key not in METHODS:
        known = ", ".join(sorted(METHODS))
        raise LmmsteerError(f"method={key} is unknown.", f"Known methods: {known}")
    return key, configs.typed(values, METHODS[key], "method")


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
    identity = manifest.identity(
        datasets.describe(dataset, config.dataset["loader"]),
        configs.prompts(config.prompts),
        config.seeds,
        config.limit,
        config.shard_images,
    )
    return dataset, identity


def artifact_path(model: str, method: str, attribute: str) -> str:
    return f"artifacts/model={model}/method={method}/attribute={attribute}/artifact.safetensors"


def resolve(member: Member, store: Store) -> Job:
    """A member of a sweep as a job. Raises LmmsteerError for everything that cannot work."""
    assert member.config is not None
    plain = OmegaConf.to_container(member.config, resolve=True)
    assert isinstance(plain, dict)
    config = typed_config(plain)
    _, method = method_of(config)
    spec, _ = model_spec(config, member.suffix("model"))
    attribute = config.attribute.name + member.suffix("attribute")
    if not method.needs_attribute:
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
    return _job(store, config, record.config, record.cell, record.cell.method, record.artifact)


def _job(
    store: Store,
    config: GenerateConfig,
    plain: Mapping[str, Any],
    cell: Cell,
    fitted: str,
    recorded: str | None = None,
) -> Job:
    key, method = method_of(config)
    engines.check(config.engine, device.detect(config.device.kind).kind)
    spec, folder = model_spec(config)
    spec = replace(spec, name=cell.model)
    dataset, identity = manifest_of(config, cell.dataset)
    attribute = attribute_of(config, method)
    artifact, where = _artifact(store, config, method, cell, fitted, recorded)
    if artifact is not None:
        where_from = getattr(method, "artifact", None) or f"{store.root}/{where}"
        check(
            artifact,
            files.d_model(folder),
            files.n_layers(folder),
            spec.digest,
            spec.name,
            str(where_from),
        )
    defining = _fingerprint(config, method, spec, attribute, artifact, identity)
    record = CellRecord(cell, plain, defining, stack(config), artifact=where)
    task = Task(
        out=store.root,
        folder=cell.folder,
        dataset=cell.dataset,
        model=spec,
        method=MethodSpec(key, parameters_of(method), attribute, where),
        sampling=config.sampling,
        engine=config.engine,
        fingerprint=record.digest,
    )
    return Job(config, method, dataset, identity, record, task, artifact)


def stack(config: Any) -> dict[str, Any]:
    """What the answers were computed with: another of these may change their last bits."""
    found = device.detect(config.device.kind)
    slots = {"slots": config.engine.slots} if hasattr(config, "engine") else {}
    return {
        "lmmsteer": version("lmmsteer"),
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: version(name) for name in VERSIONS},
        "device": found.kind,
        "threads": config.device.threads,
        **slots,
    }


def attribute_of(config: GenerateConfig, method: Method) -> dict[str, Any]:
    if not method.needs_attribute:
        return {"name": "none", "question": None, "words": [], "note": None}
    if config.attribute.name == "none":
        raise LmmsteerError(
            f"method={method.name} needs an attribute.", "Name one: attribute=gender"
        )
    return asdict(config.attribute)


def _artifact(
    store: Store,
    config: GenerateConfig,
    method: Method,
    cell: Cell,
    fitted: str,
    recorded: str | None,
) -> tuple[Artifact | None, str | None]:
    """The artifact of a method that has one, and its address below `out`.

    One handed in from elsewhere is copied there before the first shard, so that every worker and
    every later `resume` has it.
    """
    if recorded is not None:
        return _read(store, recorded), recorded
    handed = getattr(method, "artifact", None)
    if handed is not None:
        artifact = _read_handed(handed)
        path = artifact_path(cell.model, method.name, cell.attribute)
        return artifact, path.replace("artifact.", f"artifact-{digest_of(artifact)[:12]}.")
    if not method.fitted:
        return None, None
    path = artifact_path(cell.model, fitted, cell.attribute)
    if not store.exists(path):
        raise MissingArtifact(
            f"{store.root}/{path} is missing: method={method.name} is not fitted yet.",
            f"Fit it with: {fit_command(config, method)}",
        )
    return _read(store, path), path


def _read(store: Store, path: str) -> Artifact:
    try:
        return Artifact.from_bytes(store.read_bytes(path), f"{store.root}/{path}")
    except OSError as error:
        raise LmmsteerError(
            f"{store.root}/{path} cannot be read: {error.strerror or error}.",
            "Bring the artifact back, or choose another folder: out=FOLDER",
        ) from error


def fit_command(config: GenerateConfig, method: Method) -> str:
    """The command that makes a missing artifact."""
    fitting = "demo_fit" if config.dataset["name"] == "demo" else "DATASET"
    model = "" if config.model.path == "demo" else f" model.path={config.model.path}"
    return (
        f"lmmsteer fit method={method.name} attribute={config.attribute.name}"
        f" dataset={fitting}{model} out={config.out}"
    )


def _read_handed(path: str) -> Artifact:
    try:
        if "://" in path:
            base, _, name = path.rpartition("/")
            return Artifact.from_bytes(open_store(base).read_bytes(name), path)
        return Artifact.from_bytes(Path(path).read_bytes(), path)
    except OSError as error:
        raise LmmsteerError(
            f"method.artifact={path} cannot be read: {error.strerror or error}.",
            "Name a safetensors file with the tensor `directions`: method.artifact=FILE",
        ) from error


def _fingerprint(
    config: GenerateConfig,
    method: Method,
    spec: ModelSpec,
    attribute: Mapping[str, Any],
    artifact: Artifact | None,
    identity: Mapping[str, Any],
) -> dict[str, Any]:
    parameters = {
        k: v for k, v in parameters_of(method).items() if k not in {*fit_fields(method), "artifact"}
    }
    words = {} if method.fitted or not method.needs_attribute else dict(attribute)
    words.pop("note", None)
    engine = {k: v for k, v in asdict(config.engine).items() if k != "slots"}
    return {
        "model": {"digest": spec.digest, "revision": spec.revision, "dtype": spec.dtype},
        "method": {**parameters, "artifact": digest_of(artifact) if artifact else None},
        "attribute": words,
        "manifest": dict(identity),
        "sampling": asdict(config.sampling),
        "engine": engine,
        "schema": SCHEMA_VERSION,
    }


def parameters_of(method: Method) -> dict[str, Any]:
    return {f.name: getattr(method, f.name) for f in fields(method)}


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


def fit_fields(method: Method) -> list[str]:
    """Parameters that act through the artifact alone: they define a fit, not an answer."""
    if not method.fitted:
        return []
    return sorted({f.name for f in fields(method)} - {"name", "artifact", "alpha"})


def digest_of(artifact: Artifact) -> str:
    """sha256 of an artifact's bytes."""
    return hashlib.sha256(artifact.to_bytes()).hexdigest()


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
