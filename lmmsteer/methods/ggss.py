"""GGSS: tokens are turned on the sphere, away from the subspace in which groups differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lmmsteer.engine.edit import FeatureRule
from lmmsteer.engine.edit.feature_rules import TINY, FeatureRotation, log_map
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.base import Learning
from lmmsteer.methods.feature_fit import FeatureMethod, Pooled, check_range, shown_tokens
from lmmsteer.models.lmm import Lmm

CALIBRATION = 64  # Pictures whose tokens set the gate.
ROUNDS = 200
SAME = 1e-7  # Groups whose means differ by less do not differ.


@dataclass(frozen=True)
class Ggss(FeatureMethod):
    """Gated geodesic steering of the projected features, norms kept.

    Discovery: x = a picture's mean over its tokens, of length one. In each context, a point for
    each group (the Frechet mean of its pictures) and t = log of it at the Frechet mean of the
    context's points; V: the first groups - 1 right singular vectors of all t; mu: the Frechet mean
    of all x. Token: t = log_mu(h^), t_clean = (I - V^T V) t, g = g0 + (1 - g0) sigmoid(kappa (|V t|
    - median) / std), h' = |h| Slerp(h^, exp_mu(t_clean); alpha g).

    A context is a set of counterfactual pictures, one of each group there; where the data set names
    none, all pictures are one context, and the points are the groups' means. Readings: V is made
    orthogonal to mu, so that t_clean is a tangent; median and std are of the tokens of (at most) 64
    pictures of the fit. alpha in [0, 2]: 0 changes nothing; kappa 5, g0 0.3 as published.
    Source: GGSS (arXiv 2608.25375).
    """

    name: str = "ggss"
    kappa: float = 5.0
    g0: float = 0.3

    shapes: ClassVar[Mapping[str, tuple[str | int, ...]]] = {
        "mean": ("d",),
        "subspace": ("k", "d"),
        "gate": (4,),  # median, std, kappa, g0
    }
    alpha_max: ClassVar[float] = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("kappa", self.kappa, 0)
        check_range("g0", self.g0, 0, 1)

    def learn(
        self, lmm: Lmm, learning: Learning, pooled: Pooled
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        x, y = pooled.fit
        kept = (~pooled.held_out).nonzero().squeeze(-1).tolist()
        image_ids = [pooled.image_ids[at] for at in kept]
        contexts = contexts_of(learning, image_ids)
        unit = _unit(x.double())
        mean = frechet_mean(unit)
        subspace = differing(unit, y, contexts, mean)
        found = {"mean": mean.float(), "subspace": subspace.float()}
        step = math.ceil(len(image_ids) / CALIBRATION)
        sizes = self._sizes(lmm, learning, image_ids[::step], found)
        gate = [sizes.quantile(0.5).item(), sizes.std(correction=0).item(), self.kappa, self.g0]
        return {**found, "gate": torch.tensor(gate)}, {
            "kappa": self.kappa,
            "g0": self.g0,
            "contexts": len(set(contexts)),
            "k": len(subspace),
            "gate_pictures": len(image_ids[::step]),
        }

    def rule(self, tensors: Mapping[str, Tensor], alpha: float) -> FeatureRule | None:
        return FeatureRotation(
            tensors["mean"], tensors["subspace"], *tensors["gate"].tolist(), alpha=alpha
        )

    def _sizes(
        self, lmm: Lmm, learning: Learning, image_ids: Sequence[str], found: Mapping[str, Tensor]
    ) -> Tensor:
        """|V log_mu(h^)| of every token of some pictures. [tokens] float64."""
        mean, subspace = found["mean"], found["subspace"]

        def sizes() -> dict[str, Tensor]:
            learning.say(f"tokens of {len(image_ids)} pictures, for the gate")
            seen = shown_tokens(lmm, learning, image_ids)
            parts = [
                (log_map(mean, _unit(tokens.cpu())) @ subspace.T).norm(dim=-1).double()
                for tokens in seen
            ]
            return {"sizes": torch.cat(parts)}

        return learning.passes.once("gate", sizes)["sizes"]


def contexts_of(learning: Learning, image_ids: Sequence[str]) -> list[str]:
    """The counterfactual set of each picture; the same for all where one has none."""
    groups: Mapping[str, str] = learning.groups
    if all(image_id in groups for image_id in image_ids):
        return [groups[image_id] for image_id in image_ids]
    return [""] * len(image_ids)


def differing(unit: Tensor, labels: Tensor, contexts: Sequence[str], mean: Tensor) -> Tensor:
    """The subspace in which groups of a context differ: V, [groups - 1, d_model] orthonormal rows.

    unit: [pictures, d_model] float64, of length one; mean: the point that V is made orthogonal to.
    Raises: LmmsteerError where the groups do not differ in that many directions.
    """
    members: dict[str, list[int]] = {}
    for at, context in enumerate(contexts):
        members.setdefault(context, []).append(at)
    tangents = [_tangents(unit[rows], labels[rows]) for rows in members.values()]
    k = len(labels.unique()) - 1
    _, sizes, found = torch.linalg.svd(torch.cat(tangents), full_matrices=False)
    if len(sizes) < k or sizes[k - 1] < SAME:
        raise LmmsteerError(
            f"The pictures of {k + 1} classes do not differ in {k} directions of the projected "
            "features.",
            "Name a data set whose pictures differ by class, with two classes or more in each of "
            "its counterfactual sets where it has any",
        )
    found = found[:k] - (found[:k] @ mean).unsqueeze(1) * mean
    rows = torch.linalg.qr(found.T).Q.T
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return rows * largest.sign()


def frechet_mean(unit: Tensor) -> Tensor:
    """The point of the sphere whose squared geodesic distances to the points sum to the least.

    Found by mu <- exp_mu(mean log_mu(x)) from the normalised mean on. unit: [points, d].
    """
    mean = _unit(unit.mean(0))
    for _ in range(ROUNDS):
        step = log_map(mean, unit).mean(0)
        mean = _unit(torch.cos(step.norm()) * mean + torch.sinc(step.norm() / torch.pi) * step)
        if step.norm() < TINY:
            break
    return mean


def _tangents(unit: Tensor, labels: Tensor) -> Tensor:
    """log of each group's point at their Frechet mean. [groups, d]; a lone group's is zero."""
    points = torch.stack([frechet_mean(unit[labels == at]) for at in labels.unique()])
    return log_map(frechet_mean(points), points)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp_min(TINY)
