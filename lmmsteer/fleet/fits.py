"""A fit, from a composed config to the task a worker gets; refused before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmmsteer import fingerprint, manifest
from lmmsteer.config import GenerateConfig
from lmmsteer.datasets.base import DataSet
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import resolve, steering
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.task import FitTask, MethodSpec
from lmmsteer.manifest import Manifest
from lmmsteer.methods.artifact import Artifact
from lmmsteer.store import Store


@dataclass(frozen=True)
class Fit:
    """One artifact to be made. `done` says that the same one is there already."""

    config: GenerateConfig
    dataset: DataSet
    identity: Mapping[str, Any]
    task: FitTask
    pictures: int | None
    done: bool

    @property
    def label(self) -> str:
        task = self.task
        return f"{task.model.name} {task.method.method} {task.method.attribute['name']}"

    def with_parts(self, made: Manifest | None) -> FitTask:
        """The task with as many parts as hold the pictures that the method asks for."""
        assert made is not None
        parts: list[str] = []
        count = 0
        for shard in made.shards:
            if self.pictures is not None and count >= self.pictures:
                break
            parts.append(shard.name)
            count += shard.images
        return replace(self.task, parts=tuple(parts))

    def read(self, store: Store) -> Artifact:
        return Artifact.from_bytes(store.read_bytes(self.task.path), self.task.path)


def resolve_fit(member: Member, store: Store) -> Fit:
    """A member as a fit. Raises LmmsteerError where nothing can be fitted or another is there."""
    config = resolve.typed_config(member.config)
    key, method = steering.method_of(config)
    if not method.fitted:
        raise LmmsteerError(
            f"method={method.name} has nothing to fit.",
            f"Use it as it is: lmmsteer generate method={method.name} out={config.out}",
        )
    spec, folder = resolve.model_spec(config, member.suffix("model"))
    steering.check_family(method, resolve.family(spec, folder), spec.name)
    facts = resolve.facts_of(spec, folder)
    method.suit(facts)
    method.suit_fit(facts)
    attribute = steering.attribute_of(config, method)
    name = config.dataset["name"] + member.suffix("dataset")
    dataset, identity = resolve.manifest_of(config, name)
    _gate_pictures(store, name, identity)
    where = steering.artifact_path(
        spec.name,
        method.name + member.suffix("method", steering.fit_fields(method)),
        attribute["name"] + member.suffix("attribute"),
    )
    parameters = steering.parameters_of(method)
    sources = {name: _source(name, parameters[name]) for name in method.sources}
    parameters |= {name: path for name, (path, _) in sources.items()}
    defining = {
        "model": spec.digest,
        "dtype": spec.dtype,
        "method": {
            k: sources[k][1] if k in sources else parameters[k] for k in steering.fit_fields(method)
        },
        "attribute": {k: attribute[k] for k in ("name", "question", "words")},
        "dataset": {**identity["dataset"], "limit": config.limit, **_drawn(identity)},
    }
    task = FitTask(
        out=store.root,
        path=where,
        dataset=name,
        parts=(),
        model=spec,
        method=MethodSpec(key, parameters, attribute),
        engine=config.engine,
        fingerprint=defining,
    )
    pictures = getattr(method, "pictures_needed", None)
    return Fit(config, dataset, identity, task, pictures, _is_done(store, where, defining))


def _source(name: str, path: str | None) -> tuple[str | None, str | None]:
    """A file to learn from: where a worker of this machine finds it, and sha256 of its bytes."""
    if path is None:
        return None, None
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise LmmsteerError(
            f"method.{name}={path} cannot be read: {error.strerror or error}.",
            "Name a file that all workers can read",
        ) from error
    return str(Path(path).expanduser().resolve()), hashlib.sha256(data).hexdigest()


def _gate_pictures(store: Store, name: str, identity: dict[str, Any]) -> None:
    """A fit needs a manifest's pictures only: one with other prompts or seeds serves as well."""
    found = manifest.load(store, name)
    same = found is not None and found.identity["dataset"] == identity["dataset"]
    if found is not None and same and _drawn(found.identity) == _drawn(identity):
        identity.clear()
        identity.update(found.identity)


def _drawn(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {"sample": identity["sample"]} if identity.get("sample") else {}


def _is_done(store: Store, path: str, defining: Mapping[str, Any]) -> bool:
    if not store.exists(path):
        return False
    found = Artifact.from_bytes(store.read_bytes(path), f"{store.root}/{path}")
    fingerprint.refuse_if_different(
        f"{store.root}/{path}",
        found.metadata.get("fit", {}),
        defining,
        "Move it aside to fit it anew, or choose another folder: out=FOLDER",
    )
    return True
