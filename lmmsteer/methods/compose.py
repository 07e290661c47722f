"""Several methods in one generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lmmsteer.engine.edit import Edit, FeatureChain, ResidualEdit
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.artifact import ModelFacts
from lmmsteer.methods.base import Context, Method
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request

CONFLICTS = ("span", "error")
DEPENDENT = 1e-3  # Of a row's norm; what rounding to bfloat16 leaves of a direction's copy.


@dataclass(frozen=True)
class Compose(Method):
    """Applies the edits of several methods in one generation, in the order given.

    Prompts: each method sees those of the ones before it. Residual directions: one projection on
    the span of all (order does not matter); features and logits: one rule after the other; a
    contrast stream acts on raw logits, before every rule, wherever it stands.

    methods: names, or mappings with `name`, its parameters and, where it is not the cell's,
    `attribute` (a name or its keys). conflict: what happens where directions of two methods are not
    orthogonal: `span` removes the space that they span, `error` refuses.
    """

    name: str = "compose"
    methods: list[Any] = field(default_factory=list)
    conflict: str = "span"

    def __post_init__(self) -> None:
        if self.conflict not in CONFLICTS:
            raise LmmsteerError(
                f"method.conflict={self.conflict} is not known.",
                f"Use method.conflict={'|'.join(CONFLICTS)}",
            )

    @property
    def members(self) -> Sequence[Any]:
        return self.methods

    def suit(self, facts: ModelFacts) -> None:
        if not self.methods:
            raise LmmsteerError("method=compose has no methods.", "List them: method.methods=[...]")

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        if not context.parts:
            raise LmmsteerError("method=compose has no methods.", "List them: method.methods=[...]")
        edits, prompts = [], None
        for method, own in context.parts:
            made = method.edit(lmm, requests, own)
            if made.prompts is not None:
                prompts = made.prompts
                shown = zip(requests, prompts, strict=True)
                requests = [replace(request, prompt=prompt) for request, prompt in shown]
            edits.append(made)
        contrasts = [edit.contrast for edit in edits if edit.contrast is not None]
        if len(contrasts) > 1:
            raise LmmsteerError(
                "method=compose has two methods with contrast streams.", "Leave one of them out"
            )
        features = [edit.features for edit in edits if edit.features is not None]
        return Edit(
            prompts=prompts,
            residual=together([e.residual for e in edits if e.residual is not None], self.conflict),
            features=FeatureChain(tuple(features))
            if len(features) > 1
            else next(iter(features), None),
            contrast=next(iter(contrasts), None),
            rules=tuple(rule for edit in edits for rule in edit.rules),
        )


def together(edits: Sequence[ResidualEdit], conflict: str = "span") -> ResidualEdit | None:
    """One residual edit that removes the span of all directions and adds all shifts.

    Raises: LmmsteerError where they differ in what cannot be joined: alpha, scope, keep_norm; with
    conflict=error, where directions are not orthogonal.
    """
    if len(edits) < 2:
        return next(iter(edits), None)
    removing = [edit for edit in edits if edit.directions.any()]
    for name, values in (
        ("alpha", {edit.alpha for edit in removing}),
        ("scope", {edit.scope for edit in edits}),
        ("keep_norm", {edit.keep_norm for edit in edits}),
    ):
        if len(values) > 1:
            raise LmmsteerError(
                f"method=compose cannot join residual edits that differ in {name}.",
                "Give its methods the same values, or run them one by one",
            )
    rows = max(len(edit.of or ()) for edit in edits)
    of = [tuple(edit.set_of(at) for edit in edits) for at in range(rows)] or [(0,) * len(edits)]
    distinct = list(dict.fromkeys(of))
    layers = max(edit.sets.shape[1] for edit in edits)
    made = [_joined(edits, sets, layers, conflict) for sets in distinct]
    shifts = [edit.shifts for edit in edits]
    shift = None
    if any(one is not None for one in shifts):
        shift = torch.stack([_sum(shifts, sets, layers, edits[0].d_model) for sets in distinct])
    return ResidualEdit(
        torch.stack(made),
        alpha=removing[0].alpha if removing else 1.0,
        of=tuple(distinct.index(sets) for sets in of) if rows else None,
        shift=shift,
        keep_norm=edits[0].keep_norm,
        scope=edits[0].scope,
    )


def _joined(
    edits: Sequence[ResidualEdit], sets: Sequence[int], layers: int, conflict: str
) -> Tensor:
    """[layers, k, d_model]: orthonormal rows over the span, zeros where it is smaller than k."""
    stacked = [e.sets[s].expand(layers, -1, -1) for e, s in zip(edits, sets, strict=True)]
    if conflict == "error":
        for at, first in enumerate(stacked):
            for second in stacked[at + 1 :]:
                worst = (first @ second.transpose(-1, -2)).abs().max().item()
                if worst > 1e-3:
                    raise LmmsteerError(
                        f"Two methods' directions are not orthogonal (cosine {worst:.3f}), and "
                        "method.conflict=error.",
                        "Use method.conflict=span to remove the space that they span",
                    )
    return torch.stack([orthonormal_rows(rows) for rows in torch.cat(stacked, 1)])


def orthonormal_rows(rows: Tensor) -> Tensor:
    """Gram-Schmidt in the rows' order, float64 inside; a row in the span of those before is zero.

    rows: [k, d_model]; NaN stays where it is.
    """
    made: list[Tensor] = []
    for row in rows.double():
        left = row
        for _ in range(2):  # Twice is enough for orthogonality to rounding.
            for other in made:
                left = left - (left @ other) * other
        norm, scale = left.norm(), row.norm()
        made.append(torch.zeros_like(row) if norm <= DEPENDENT * scale else left / norm)
    return torch.stack(made).float()


def _sum(shifts: Sequence[Tensor | None], sets: Sequence[int], layers: int, d_model: int) -> Tensor:
    total = torch.zeros(layers, d_model)
    for shift, at in zip(shifts, sets, strict=True):
        if shift is not None:
            total += shift[at].expand(layers, -1).float()
    return total
