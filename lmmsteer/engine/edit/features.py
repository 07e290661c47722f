"""What is changed in the picture's projected features, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class FeatureRule(Protocol):
    """A change of the picture as the decoder reads it; the vision tower is not run again for it."""

    def apply(self, features: Tensor) -> Tensor:
        """features: [..., d_model] of any dtype, one picture token a row; the same again."""
        ...


@dataclass(frozen=True)
class FeatureEdit:
    """One dimension at a time: f' = f * scale + shift.

    scale, shift: [d_model] float32. Scale 0 drops a dimension (CLIP-clip), scale 0 with a shift
    imputes a value (SFID).
    """

    scale: Tensor
    shift: Tensor

    def apply(self, features: Tensor) -> Tensor:
        """features: [..., d_model], any dtype; computed in float32."""
        scale, shift = (x.to(features.device, torch.float32) for x in (self.scale, self.shift))
        return (features.float() * scale + shift).to(features.dtype)


@dataclass(frozen=True)
class FeatureChain:
    """One rule after the other."""

    rules: Sequence[FeatureRule]

    def apply(self, features: Tensor) -> Tensor:
        for rule in self.rules:
            features = rule.apply(features)
        return features
