"""Visual contrast: what a model would say without the picture is held against what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmmsteer.engine.edit import Contrast, Edit
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.base import Context, Method
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request

STREAMS = {
    "removed": ("removed",),
    "unknown": ("unknown",),
    "noise": ("noise",),
    "average": ("removed", "unknown"),
}


@dataclass(frozen=True)
class Vdd(Method):
    """Visual debias decoding: z' = (1 + alpha) z - alpha z_c, for plausible tokens only.

    z_c: the logits of the same row without its picture, behind the same tokens. Tokens with
    z < max z + log(beta) are left out; beta 0 leaves all in. Costs a second stream of every row.

    contrast: removed (the picture's tokens left out; for Llama-3.2-Vision the cross-attention),
    unknown (the unknown token in their places), noise (Gaussian noise for pixels, one for each
    picture), average (mean of removed and unknown).
    Source: Zhang et al. 2024 (arXiv 2403.05262); noise without a mask is how ALA runs it
    (alpha 1, beta 0).
    """

    name: str = "vdd"
    alpha: float = 1.0
    beta: float = 0.1
    contrast: str = "removed"

    def __post_init__(self) -> None:
        if self.contrast not in STREAMS:
            raise LmmsteerError(
                f"method.contrast={self.contrast} is not known.",
                f"Use method.contrast={'|'.join(STREAMS)}",
            )
        if not self.alpha >= 0:
            raise LmmsteerError(
                f"method.alpha={self.alpha} is no weight.", "Set method.alpha to 0 or more"
            )
        if not 0 <= self.beta <= 1:
            raise LmmsteerError(
                f"method.beta={self.beta} is not a share.", "Set method.beta between 0 and 1"
            )

    @property
    def touches(self) -> frozenset[str]:
        return frozenset({"contrast"})

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        if self.alpha == 0 and self.beta == 0:
            return Edit()
        return Edit(contrast=Contrast(self.alpha, self.beta, STREAMS[self.contrast]))
