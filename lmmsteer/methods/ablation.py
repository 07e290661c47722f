"""Ablation of directions that were found elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lmmsteer.engine.edit import Edit, ResidualAblation
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.base import Context, Method
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request


@dataclass(frozen=True)
class Ablation(Method):
    """Removes the directions of an artifact from every residual.

    r' = r - alpha A^T (A r). artifact: a safetensors file with the tensor `directions`
    [k, d_model], orthonormal rows. alpha: share that is removed, in [0, 1].
    Source: Ratzlaff et al. 2024 (arXiv 2411.12590), section 3.1.
    """

    name: str = "ablation"
    artifact: str = "???"
    alpha: float = 1.0

    needs_artifact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        return remove_artifact(context, self.alpha)


def remove_artifact(context: Context, alpha: float) -> Edit:
    """The edit that ablates the context's artifact."""
    if context.artifact is None:
        raise LmmsteerError("An ablation was asked for without directions.", "Run: lmmsteer fit")
    return Edit(residual=ResidualAblation(context.artifact.tensors["directions"], alpha))


def check_alpha(alpha: float) -> None:
    """Raises: LmmsteerError for a share outside [0, 1]."""
    if not 0 <= alpha <= 1:
        raise LmmsteerError(
            f"method.alpha={alpha} is not a share.", "Set method.alpha between 0 and 1"
        )
