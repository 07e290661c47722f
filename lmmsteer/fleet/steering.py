"""A method with all that its edit rests on: parameters, attribute, artifacts; checked, not loaded.

Methods that are made of others (`compose`, `ala_cross`) have theirs as parts, each resolved alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import Field, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from lmmsteer import config as configs
from lmmsteer.config import AttributeConfig, GenerateConfig
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet.task import MethodSpec
from lmmsteer.methods import METHODS
from lmmsteer.methods.artifact import Artifact, ModelFacts
from lmmsteer.methods.base import Method
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.families import Family
from lmmsteer.places import CONF
from lmmsteer.store import Store, open_store

NONE = {"name": "none", "question": None, "words": [], "note": None}


class MissingArtifact(LmmsteerError):
    """A fitted method whose artifact is not there yet; its mend is the fit command."""


@dataclass(frozen=True)
class Steering:
    """A method of a cell. where: its artifact's address below `out`."""

    key: str
    method: Method
    attribute: Mapping[str, Any]
    artifact: Artifact | None = None
    where: str | None = None
    parts: tuple[Steering, ...] = ()

    @property
    def spec(self) -> MethodSpec:
        """What a worker is told of it."""
        return MethodSpec(
            self.key,
            parameters_of(self.method),
            dict(self.attribute),
            self.where,
            tuple(part.spec for part in self.parts),
        )

    @property
    def handed(self) -> Iterator[tuple[str, Artifact]]:
        """Artifacts and their addresses, its own and its parts'."""
        if self.artifact is not None and self.where is not None:
            yield self.where, self.artifact
        for part in self.parts:
            yield from part.handed

    @property
    def defining(self) -> dict[str, Any]:
        """What of it defines the answers."""
        hidden = {*fit_fields(self.method), "artifact"}
        hidden |= {"methods", "terms"} if self.parts else set()
        found = {k: v for k, v in parameters_of(self.method).items() if k not in hidden}
        found["artifact"] = digest_of(self.artifact) if self.artifact else None
        if self.parts:
            found["parts"] = [
                {**part.defining, "attribute": {"name": part.attribute["name"], **part.words}}
                for part in self.parts
            ]
        return found

    @property
    def addresses(self) -> tuple[str | None, ...]:
        """The addresses of its parts' artifacts."""
        return tuple(part.where for part in self.parts)

    @property
    def words(self) -> dict[str, Any]:
        """What of the attribute defines the answers: nothing, where it acts through an artifact."""
        if self.method.fitted or not self.method.needs_attribute:
            return {}
        return {key: value for key, value in self.attribute.items() if key != "note"}


@dataclass(frozen=True)
class Place:
    """Where a method's artifact is looked for.

    model, attribute: of the cell. fitted: the method's name and what a sweep varies in its fit.
    recorded, parts: addresses that a cell's record names, its own and its parts'.
    """

    store: Store
    config: GenerateConfig
    facts: ModelFacts
    family: Family
    model: str
    attribute: str
    fitted: str
    recorded: str | None = None
    parts: tuple[str | None, ...] = ()


def method_of(config: GenerateConfig) -> tuple[str, Method]:
    """The method's key in METHODS (`method.uses`, else its name) and its dataclass, typed."""
    return _typed(dict(config.method), "method")


def _typed(values: dict[str, Any], group: str) -> tuple[str, Method]:
    key = values.pop("uses", None) or values.get("name")
    if not isinstance(key, str) or key not in METHODS:
        known = ", ".join(sorted(METHODS))
        raise LmmsteerError(f"{group}={key} is unknown.", f"Known methods: {known}")
    return key, configs.typed(values, METHODS[key], group)


def needs_attribute(method: Method) -> bool:
    """Whether it, or a part that brings no attribute, takes the cell's."""
    if not method.members:
        return method.needs_attribute
    parts = [_typed_part(at, given) for at, given in enumerate(method.members)]
    return any(
        part.needs_attribute and not part.attribute_given and own is None for _, part, own in parts
    )


def _typed_part(at: int, given: Any) -> tuple[str, Method, Any]:
    """A part of a composed method: a name, or a mapping with `name` and its parameters.

    Result: its key in METHODS, its dataclass, the attribute it brings (None: the cell's).
    """
    group = f"part {at + 1} of the method"
    if not isinstance(given, (str, Mapping)):
        raise LmmsteerError(
            f"{group} is {given!r}, neither a name nor a mapping.",
            "List names or mappings: 'method.methods=[steered_gradient, {name: ala_n, lam: 3}]'",
        )
    values = {"name": given} if isinstance(given, str) else {str(k): v for k, v in given.items()}
    attribute = values.pop("attribute", None)
    preset = _preset(values.get("name"))
    if preset:
        values = {"uses": preset["name"], **preset, **values}
    key, method = _typed(values, group)
    if type(method).members is not Method.members:
        raise LmmsteerError(
            f"{group} ({method.name}) is made of methods itself.", "List its parts one by one"
        )
    return key, method, attribute


def _preset(name: Any) -> dict[str, Any]:
    """What conf/method/NAME.yaml gives; nothing where there is no such file."""
    file = CONF / "method" / f"{name}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}


def steering_of(place: Place, key: str, method: Method) -> Steering:
    """A method with its attribute and artifacts, refused where it cannot work on this model."""
    check_family(method, place.family, place.facts.name)
    method.suit(place.facts)
    attribute = attribute_of(place.config, method)
    parts = tuple(_part(place, at, given) for at, given in enumerate(method.members))
    artifact, where = _artifact(place, key, method)
    if artifact is not None:
        named = getattr(method, "artifact", None) or f"{place.store.root}/{where}"
        method.check(artifact, place.facts, str(named))
    return Steering(key, method, attribute, artifact, where, parts)


def _part(place: Place, at: int, given: Any) -> Steering:
    key, method, attribute = _typed_part(at, given)
    config = place.config
    if attribute is not None:
        config = replace(config, attribute=_attribute(attribute))
    name = config.attribute.name if method.needs_attribute else "none"
    recorded = place.parts[at] if at < len(place.parts) else None
    here = replace(
        place, config=config, attribute=name, fitted=method.name, recorded=recorded, parts=()
    )
    return steering_of(here, key, method)


def _attribute(given: Any) -> AttributeConfig:
    """An attribute of a part: the name of one in conf/attribute, or its keys."""
    if isinstance(given, str):
        file = CONF / "attribute" / f"{given}.yaml"
        if not file.is_file():
            known = ", ".join(sorted(f.stem for f in (CONF / "attribute").glob("*.yaml")))
            raise LmmsteerError(f"attribute={given} is unknown.", f"Known attributes: {known}")
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(given, Mapping):
        raise LmmsteerError(
            f"attribute={given!r} is neither a name nor a mapping.", "Name one: attribute: gender"
        )
    return configs.typed(given, AttributeConfig, "attribute")


def check_family(method: Method, family: Family, name: str) -> None:
    """Refuse a method that changes what this family does not have, before weights are loaded."""
    touches = method.touches
    reason = ""
    if "residual" in touches and not family.pre_norm_residual:
        reason = "their decoder has no pre-norm residual stream"
    elif "features" in touches and not family.projector:
        reason = "they have no projector whose features could be edited"
    elif "contrast" in touches and not DECODING[family.name].contrasts:
        reason = "they say nothing without a picture"
    elif "picture_scope" in touches and not family.picture_in_residual:
        reason = "the picture has no tokens of its own in their residual stream"
    if reason:
        raise LmmsteerError(
            f"method={method.name} does not work on {name} ({family.name} models): {reason}.",
            "Use another method, or a model of another family",
        )


def attribute_of(config: GenerateConfig, method: Method) -> dict[str, Any]:
    if not method.needs_attribute:
        return dict(NONE)
    if config.attribute.name == "none" and not method.attribute_given:
        raise LmmsteerError(
            f"method={method.name} needs an attribute.", "Name one: attribute=gender"
        )
    return asdict(config.attribute)


def artifact_path(model: str, method: str, attribute: str) -> str:
    return f"artifacts/model={model}/method={method}/attribute={attribute}/artifact.safetensors"


def _artifact(place: Place, key: str, method: Method) -> tuple[Artifact | None, str | None]:
    """The artifact of a method that has one, and its address below `out`.

    One handed in from elsewhere is copied there before the first shard, so that every worker and
    every later `resume` has it. What is fitted under the method's own name serves its presets too.
    """
    if place.recorded is not None:
        return _read(place.store, place.recorded), place.recorded
    handed = getattr(method, "artifact", None)
    if handed is not None:
        files = [handed] if isinstance(handed, str) else list(handed)
        artifact = method.join([_read_handed(file, method.elsewhere) for file in files])
        path = artifact_path(place.model, method.name, place.attribute)
        return artifact, path.replace("artifact.", f"artifact-{digest_of(artifact)[:12]}.")
    if not method.fitted:
        return None, None
    path = artifact_path(place.model, place.fitted, place.attribute)
    if place.store.exists(path):
        artifact = _read(place.store, path)
        if differing := _differing(method, artifact, every=False):
            raise LmmsteerError(
                f"{place.store.root}/{path} was fitted with other parameters: {differing}.",
                "Leave them out, move it aside and fit it anew, or choose out=FOLDER",
            )
        return artifact, path
    # Of a sweep over a fit's parameters, a single fit with the same ones serves as well; of a
    # preset, the fit of its method.
    for name in dict.fromkeys((method.name, key)):
        other = artifact_path(place.model, name, place.attribute)
        if other != path and place.store.exists(other):
            artifact = _read(place.store, other)
            if not _differing(method, artifact, every=place.fitted != method.name):
                return artifact, other
    raise MissingArtifact(
        f"{place.store.root}/{path} is missing: method={method.name} is not fitted yet.",
        f"Fit it with: {fit_command(place.config, key, method)}",
    )


def _differing(method: Method, artifact: Artifact, *, every: bool) -> str:
    """Parameters of a fit that are asked for and were others; every: defaults are asked for too."""
    fitted = (artifact.metadata.get("fit") or {}).get("method") or {}
    default = {f.name: _default(f) for f in fields(method)}
    found = [
        f"{name} {fitted[name]} -> {value}"
        for name, value in parameters_of(method).items()
        if name in fitted
        and name not in method.sources
        and value != fitted[name]
        and (every or value != default[name])
    ]
    return ", ".join(found)


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def _read(store: Store, path: str) -> Artifact:
    try:
        return Artifact.from_bytes(store.read_bytes(path), f"{store.root}/{path}")
    except OSError as error:
        raise LmmsteerError(
            f"{store.root}/{path} cannot be read: {error.strerror or error}.",
            "Bring the artifact back, or choose another folder: out=FOLDER",
        ) from error


def _read_handed(path: str, elsewhere: str) -> Artifact:
    """elsewhere: how a user may come by such a file."""
    try:
        if "://" in path:
            base, _, name = path.rpartition("/")
            data = open_store(base).read_bytes(name)
        else:
            data = Path(path).read_bytes()
        return Artifact.from_bytes(data, path, elsewhere)
    except OSError as error:
        raise LmmsteerError(
            f"method.artifact={path} cannot be read: {error.strerror or error}.",
            "Name a safetensors file: method.artifact=FILE",
        ) from error


def fit_command(config: GenerateConfig, key: str, method: Method) -> str:
    """The command that makes a missing artifact."""
    fitting = "demo_fit" if config.dataset["name"] == "demo" else "DATASET"
    model = "" if config.model.path == "demo" else f" model.path={config.model.path}"
    name = method.name if _preset(method.name) else key
    given = {**{f.name: _default(f) for f in fields(method)}, **_preset(name)}
    asked = [
        f" method.{field}={_shown(value)}"
        for field, value in parameters_of(method).items()
        if field in fit_fields(method) and value != given[field]
    ]
    return (
        f"lmmsteer fit method={name} attribute={config.attribute.name}"
        f" dataset={fitting}{model}{''.join(asked)} out={config.out}"
    )


def _shown(value: Any) -> str:
    """A value as the command line takes it."""
    if value is None:
        return "null"
    if isinstance(value, (str, int, float)):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return f"'{json.dumps(value)}'"


def parameters_of(method: Method) -> dict[str, Any]:
    return {f.name: getattr(method, f.name) for f in fields(method)}


def fit_fields(method: Method) -> list[str]:
    """Parameters that act through the artifact alone: they define a fit, not an answer."""
    if not method.fitted:
        return []
    return sorted({f.name for f in fields(method)} - {"name", "artifact", *method.applied})


def digest_of(artifact: Artifact) -> str:
    """sha256 of an artifact's bytes."""
    return hashlib.sha256(artifact.to_bytes()).hexdigest()
