"""The control: what ablating directions does that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmmsteer.engine.edit import Edit, ResidualAblation
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.base import Context, Method
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request


@dataclass(frozen=True)
class RandomDirection(Method):
    """Removes k random directions, uniform over the sphere, from every residual.

    Drawn on the processor from `seed`, so that they are the same for every card.
    """

    name: str = "random_direction"
    seed: int = 0
    k: int = 1

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        if not 0 < self.k <= lmm.d_model:
            raise LmmsteerError(
                f"method.k={self.k} directions do not fit a residual stream {lmm.d_model} wide.",
                f"Set method.k between 1 and {lmm.d_model}",
            )
        return Edit(residual=ResidualAblation(random_directions(self.seed, self.k, lmm.d_model)))


def random_directions(seed: int, k: int, d_model: int) -> Tensor:
    """k orthonormal directions from a seed. [k, d_model] float32."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(k, d_model, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(drawn.T)
    # LAPACK's signs would favour a half of the sphere; with R's diagonal positive, none is.
    return (q * r.diagonal().sign()).T.float().contiguous()
