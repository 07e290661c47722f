"""How directions act on the residual stream: with which operation and strength, where and when.

The parameters that all methods with directions share. Knows nothing of where directions come from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from lmmsteer.engine.edit import SCOPES, ResidualEdit, check_scope, touches_of
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.artifact import Artifact, ModelFacts, check
from lmmsteer.methods.base import Context, Method
from lmmsteer.methods.extraction import states
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request

MODES = ("project", "affine", "add")
RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class Applying(Method):
    """Directions A [k, d_model] of an artifact, applied to the residual stream.

    mode project: r' = r - alpha A^T A r at block inputs, attention and MLP outputs. affine: the
    same, but a block's input gets the component of m_l, the neutral prompts' mean state there:
    r' = r - alpha A^T A (r - m_l). add: r' = r + alpha v at block inputs, v the direction with the
    length it had before it was a unit vector, where the artifact says so (see `vectors`).

    alpha: a share in [0, 1]; with add any number, negative to move away from the attribute; null:
    the strength that the artifact's fit has chosen. layers: null is all, and with add the one that
    reads what the direction was found in; else a number, a range "8-16" with both ends, or a list
    of these. scope: the tokens whose residuals change. keep_norm: each keeps its length. gate: null
    is always; or the keys of `Gate`.
    Source: Arditi et al. 2024 (arXiv 2406.11717): ablation, addition at one block's input;
    Marshall et al. 2024 (arXiv 2411.09003): affine.
    """

    alpha: float | None = 1.0
    mode: str = "project"
    layers: Any = None
    scope: list[str] = field(default_factory=lambda: list(SCOPES))
    keep_norm: bool = False
    gate: dict[str, Any] | None = None

    applied: ClassVar[frozenset[str]] = frozenset(
        {"alpha", "mode", "layers", "scope", "keep_norm", "gate"}
    )
    elsewhere: ClassVar[str] = (
        "Save the directions with safetensors as the tensor `directions` [k, d_model]"
    )

    def __post_init__(self) -> None:
        check_known(mode=(self.mode, MODES))
        if self.alpha is not None:
            check_alpha(self.alpha, self.mode)
        check_scope(frozenset(self.scope))
        numbered(self.layers)
        if self.gate is not None:
            Gate.of(self.gate)

    @property
    def touches(self) -> frozenset[str]:
        return frozenset({"residual"}) | touches_of(self.scope)

    def suit(self, facts: ModelFacts) -> None:
        if facts.n_layers is not None:
            self._layers(facts.n_layers)

    def check(self, artifact: Artifact, facts: ModelFacts, where: str = "The artifact") -> None:
        check(artifact, facts.d_model, facts.n_layers, facts.digest, facts.name, where)
        if facts.n_layers is not None:
            self.everywhere(artifact, facts.n_layers, where)
            if self.gate is not None:
                Gate.of(self.gate).condition(artifact, facts.n_layers, where)

    def residual(
        self, lmm: Lmm, artifact: Artifact | None, requests: Sequence[Request], context: Context
    ) -> ResidualEdit:
        """The edit of these rows; a gate looks at each picture and prompt first."""
        if artifact is None:
            raise LmmsteerError(
                "An ablation was asked for without directions.", "Run: lmmsteer fit"
            )
        edit = self.everywhere(artifact, lmm.n_layers)
        if self.gate is None:
            return edit
        return gated(edit, Gate.of(self.gate).fired(lmm, artifact, requests, context.pictures))

    def everywhere(
        self, artifact: Artifact, n_layers: int, where: str = "The artifact"
    ) -> ResidualEdit:
        """The edit of rows that no gate holds back.

        Raises: LmmsteerError, naming `where`, for a layer that the model has not, and for an
        artifact that lacks what the mode needs.
        """
        alpha = self._strength(artifact, where)
        chosen = self._layers(n_layers)
        if self.mode == "add":
            shift = alpha * added(artifact, n_layers, chosen, where)
            nothing = torch.zeros(1, n_layers, 1, shift.shape[-1])
            return self._edit(nothing, 1.0, shift.unsqueeze(0).float())
        directions = artifact.tensors["directions"].float()
        if self.mode == "project" and chosen is None:
            return self._edit(directions, alpha, None)
        on = torch.zeros(n_layers)
        on[list(chosen) if chosen is not None else slice(None)] = 1
        each = on[:, None, None] * directions  # [n_layers, k, d_model]
        if self.mode == "project":
            return self._edit(each.unsqueeze(0), alpha, None)
        # Attention and MLP outputs are plainly projected: they are summands of what a block reads,
        # and only the sum is to have the mean's component.
        shift = alpha * on[:, None] * kept(artifact, n_layers, where)
        return self._edit(each.unsqueeze(0), alpha, shift.unsqueeze(0).float())

    def _edit(self, directions: Tensor, alpha: float, shift: Tensor | None) -> ResidualEdit:
        return ResidualEdit(
            directions, alpha, shift=shift, keep_norm=self.keep_norm, scope=frozenset(self.scope)
        )

    def _strength(self, artifact: Artifact, where: str) -> float:
        if self.alpha is not None:
            return self.alpha
        alpha = artifact.metadata.get("alpha")
        if isinstance(alpha, int | float) and artifact.metadata.get("judged_as") == self.mode:
            return float(alpha)
        raise LmmsteerError(
            f"{where} names no strength for method.mode={self.mode}, and method.alpha is null.",
            f"Set method.alpha, or fit with method.judged_as={self.mode} and method.alphas=[...]",
        )

    def _layers(self, n_layers: int) -> tuple[int, ...] | None:
        chosen = numbered(self.layers)
        if chosen is not None and (beyond := [at for at in chosen if at >= n_layers]):
            raise LmmsteerError(
                f"method.layers={self.layers} names layer {beyond[0]}, and the model has "
                f"{n_layers}.",
                f"Name layers between 0 and {n_layers - 1}",
            )
        return chosen


@dataclass(frozen=True)
class Gate:
    """Applies directions to a row only where a condition shows in its unsteered prompt.

    sim = cos(h, tanh(P h)), P = c c^T / c^T c; fires where sim is above the threshold, or below it.
    h: output of block `layer` at the last prompt token, or its mean over the prompt's text. Decided
    once for a row, before its answer; sim does not depend on the sign or the length of c.

    tensor: where the artifact holds c: [n_layers, d_model], [1, d_model] or [d_model]. layer: null
    is the artifact's own.
    Source: Lee et al. 2024 (arXiv 2409.05907), conditional activation steering.
    """

    threshold: float
    fires: str = "above"
    tensor: str = "candidates"
    layer: int | None = None
    position: str = "prompt_last"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Gate:
        """A gate from a config. Raises: LmmsteerError for a key or a value that cannot be."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown or not isinstance(values.get("threshold"), int | float):
            problem = f"has no key {unknown[0]}" if unknown else "has no threshold"
            raise LmmsteerError(
                f"method.gate {problem}.",
                f"Its keys: {', '.join(known)}; for example method.gate={{threshold: 0.1}}",
            )
        gate = cls(**values)
        if not isinstance(gate.tensor, str) or not isinstance(gate.layer, int | None):
            raise LmmsteerError(
                f"method.gate names a tensor {gate.tensor!r} at layer {gate.layer!r}.",
                "Give the name of a tensor of the artifact, and the index of a layer or null",
            )
        check_known(
            **{
                "gate.fires": (gate.fires, ("above", "below")),
                "gate.position": (gate.position, ("prompt_last", "prompt_mean")),
            }
        )
        return gate

    def fired(
        self,
        lmm: Lmm,
        artifact: Artifact,
        requests: Sequence[Request],
        pictures: Mapping[str, Image.Image],
    ) -> list[bool]:
        """Whether each row is to be steered: one forward pass of each picture and prompt.

        Each pair is run by itself, so that no row's answer depends on its companions.
        """
        condition, layer = self.condition(artifact, lmm.n_layers)
        found: dict[tuple[str, str], bool] = {}
        for image_id in dict.fromkeys(request.image_id for request in requests):
            prepared = lmm.prepare(pictures[image_id])
            for prompt in dict.fromkeys(r.prompt for r in requests if r.image_id == image_id):
                if lmm.refusal(prompt) is not None:
                    found[image_id, prompt] = False
                    continue
                h = states(lmm, [(prompt, prepared)], self.position)[0, layer + 1]
                sim = similarity(h, condition)
                found[image_id, prompt] = (sim > self.threshold) == (self.fires == "above")
        return [found[request.image_id, request.prompt] for request in requests]

    def condition(
        self, artifact: Artifact, n_layers: int, where: str = "The artifact"
    ) -> tuple[Tensor, int]:
        """The condition's direction and the layer that it is held against. [d_model]."""
        layer = self.layer if self.layer is not None else artifact.metadata.get("layer")
        if layer is None or not _is_layer(layer, n_layers):
            raise LmmsteerError(
                f"method.gate has no layer of this model: {layer} of {n_layers}.",
                f"Set the gate's layer between 0 and {n_layers - 1}",
            )
        found = artifact.tensors.get(self.tensor)
        d_model = artifact.tensors["directions"].shape[-1]
        rows = found.reshape(-1, found.shape[-1]).float() if found is not None else None
        if rows is None or rows.shape[-1] != d_model or len(rows) not in (1, n_layers):
            shape = "" if found is None else f" of a fitting shape ({list(found.shape)} is not)"
            raise LmmsteerError(
                f"{where} has no tensor `{self.tensor}`{shape} for method.gate.",
                f"Save one there, [{n_layers}, {d_model}] or [{d_model}], or name another: tensor",
            )
        return rows[layer if len(rows) > 1 else 0], layer


def similarity(h: Tensor, condition: Tensor) -> float:
    """cos(h, tanh(P h)), P = c c^T / c^T c. [d_model] each; 0 where c is zero or h has none of it.

    Source: Lee et al. 2024 (arXiv 2409.05907).
    """
    h, c = h.double(), condition.double()
    length = c @ c
    if length == 0:
        return 0.0
    seen = torch.tanh(c * (c @ h) / length)
    norms = h.norm() * seen.norm()
    return float(h @ seen / norms) if norms > 0 else 0.0


def gated(edit: ResidualEdit, fired: Sequence[bool]) -> ResidualEdit:
    """The edit for rows that fired, and nothing for the others: set 1 and a set 0 of zeros.

    edit: of one set. fired: one for each row.
    """

    def with_zeros(x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), x])

    return replace(
        edit,
        directions=with_zeros(edit.sets),
        shift=None if edit.shifts is None else with_zeros(edit.shifts),
        of=tuple(int(each) for each in fired),
    )


def vectors(artifact: Artifact) -> tuple[Tensor, list[Any]]:
    """What `add` adds at strength 1, and the layer whose output each vector is from, where known.

    The direction at the length it was found with, |a| A^T 1; an artifact that was joined of several
    has its files' as the tensor `vectors`, and their layers as `layers`.
    [vectors, d_model] float64.
    """
    layer = artifact.metadata.get("layer")
    found = artifact.tensors.get("vectors")
    if found is not None:
        layers = artifact.metadata.get("layers")
        known = layers if isinstance(layers, list) and len(layers) == len(found) else None
        return found.double(), known or [layer] * len(found)
    directions = artifact.tensors["directions"].double()
    candidates, length = artifact.tensors.get("candidates"), 1.0
    if candidates is not None and len(directions) == 1 and _is_layer(layer, len(candidates)):
        length = candidates[layer].double().norm()
    return length * directions.sum(0, keepdim=True), [layer]


def added(
    artifact: Artifact, n_layers: int, layers: Sequence[int] | None, where: str = "The artifact"
) -> Tensor:
    """What `add` adds to each block's input at strength 1. [n_layers, d_model] float64."""
    found = torch.zeros(n_layers, artifact.tensors["directions"].shape[-1], dtype=torch.float64)
    for vector, source in zip(*vectors(artifact), strict=True):
        if layers is None and not _is_layer(source, n_layers - 1):
            raise LmmsteerError(
                f"{where} does not say which layer's output its direction is from "
                f"(layer={source}), or no block reads that.",
                "Name the blocks whose inputs are shifted: method.layers=LAYER",
            )
        # A direction of block l's output is a direction of block l + 1's input.
        found[[source + 1] if layers is None else list(layers)] += vector
    return found


def kept(artifact: Artifact, n_layers: int, where: str = "The artifact") -> Tensor:
    """What `affine` leaves of each block's input: A^T A m_l. [n_layers, d_model] float64."""
    a, mean = artifact.tensors["directions"].double(), artifact.tensors.get("mean")
    if mean is None or mean.shape != (n_layers, a.shape[-1]):
        raise LmmsteerError(
            f"{where} has no tensor `mean` [{n_layers}, {a.shape[-1]}] for method.mode=affine.",
            "Fit it again (lmmsteer fit), or use method.mode=project",
        )
    return mean.double() @ a.T @ a


def numbered(layers: Any) -> tuple[int, ...] | None:
    """Layers from a config: null, a number, a range "8-16" with both ends, or a list of these.

    Raises: LmmsteerError for anything else, and for none at all.
    """
    if layers is None:
        return None
    found: set[int] = set()
    for part in layers if isinstance(layers, list | tuple) else [layers]:
        ends = RANGE.fullmatch(part.strip()) if isinstance(part, str) else None
        if ends:
            found.update(range(int(ends[1]), int(ends[2]) + 1))
        elif isinstance(part, int) and not isinstance(part, bool) and part >= 0:
            found.add(part)
        else:
            found.clear()
            break
    if not found:
        raise LmmsteerError(
            f"method.layers={layers} names no layers.",
            'Give numbers from 0 on, a range, or a list of them: method.layers=[3,"8-16"]',
        )
    return tuple(sorted(found))


def check_alpha(alpha: float, mode: str = "project", key: str = "alpha") -> None:
    """Raises: LmmsteerError for a share outside [0, 1], or an addition that is not finite."""
    if mode == "add" and not math.isfinite(alpha):
        raise LmmsteerError(f"method.{key}={alpha} is not finite.", f"Set method.{key} to a number")
    if mode != "add" and not 0 <= alpha <= 1:
        raise LmmsteerError(
            f"method.{key}={alpha} is not a share.", f"Set method.{key} between 0 and 1"
        )


def check_known(**chosen: tuple[str, Sequence[str]]) -> None:
    """Raises: LmmsteerError for a parameter whose value is none of its known ones."""
    for key, (value, known) in chosen.items():
        if value not in known:
            raise LmmsteerError(
                f"method.{key}={value} is not known.", f"Use method.{key}={'|'.join(known)}"
            )


def _is_layer(layer: Any, n_layers: int) -> bool:
    return isinstance(layer, int) and not isinstance(layer, bool) and 0 <= layer < n_layers
