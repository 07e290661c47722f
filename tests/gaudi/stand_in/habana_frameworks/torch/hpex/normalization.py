from __future__ import annotations

from torch import Tensor


class FusedRMSNorm:
    @staticmethod
    def apply(x: Tensor, weight: Tensor, epsilon: float, *_: object) -> Tensor:
        return weight * (x * (x.pow(2).mean(-1, keepdim=True) + epsilon).rsqrt())
