"""The control: what applying directions does that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmmsteer.engine.edit import Edit
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.applying import Applying
from lmmsteer.methods.artifact import Artifact, ModelFacts
from lmmsteer.methods.base import Context
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request


@dataclass(frozen=True)
class RandomDirection(Applying):
    """Removes k random directions, uniform over the sphere, from every residual.

    Drawn on the processor from `seed`, so that they are the same for every card. The control of
    `mode=add` needs `layers`, and in alpha the length of the vector that it stands against.
    """

    name: str = "random_direction"
    seed: int = 0
    k: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        lacking = {
            "method.alpha=null": self.alpha is None,
            "method.mode=affine": self.mode == "affine",
            "method.mode=add without method.layers": self.mode == "add" and self.layers is None,
            "method.gate": self.gate is not None,
        }
        for what, asked in lacking.items():
            if asked:
                raise LmmsteerError(
                    f"{what} needs an artifact, and random directions have none.",
                    "Use method.mode=project, or method.mode=add with method.layers and alpha",
                )

    def suit(self, facts: ModelFacts) -> None:
        super().suit(facts)
        self._check_count(facts.d_model)

    def _check_count(self, d_model: int) -> None:
        if not 0 < self.k <= d_model:
            raise LmmsteerError(
                f"method.k={self.k} directions do not fit a residual stream {d_model} wide.",
                f"Set method.k between 1 and {d_model}",
            )

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        self._check_count(lmm.d_model)
        drawn = Artifact({"directions": random_directions(self.seed, self.k, lmm.d_model)})
        return Edit(residual=self.residual(lmm, drawn, requests, context))


def random_directions(seed: int, k: int, d_model: int) -> Tensor:
    """k orthonormal directions from a seed. [k, d_model] float32."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(k, d_model, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(drawn.T)
    # LAPACK's signs would favour a half of the sphere; with R's diagonal positive, none is.
    return (q * r.diagonal().sign()).T.float().contiguous()
