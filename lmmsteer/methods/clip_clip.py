"""CLIP-clip: the features that share most information with an attribute are dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lmmsteer.engine.edit import FeatureEdit, FeatureRule
from lmmsteer.methods.base import Learning
from lmmsteer.methods.feature_fit import FeatureMethod, Pooled, check_range
from lmmsteer.models.lmm import Lmm


@dataclass(frozen=True)
class ClipClip(FeatureMethod):
    """The share of features with the highest mutual information with the label becomes zero.

    I(f_j; label) by nearest neighbours, f_j each picture's mean over its tokens; the floor of drop
    features with the highest are dropped at every token: f_j' = (1 - alpha) f_j.

    drop in [0, 1]: 0 changes nothing; 0.22 is 112 of CLIP's 512, as published. alpha in [0, 1]; the
    paper's is 1. There the embedding is pooled and of length one; an LMM's decoder reads projected
    tokens, which are taken as they are.
    Source: Wang et al. 2021 (arXiv 2109.05433).
    """

    name: str = "clip_clip"
    drop: float = 0.22

    shapes: ClassVar[Mapping[str, tuple[str | int, ...]]] = {"kept": ("d",)}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("drop", self.drop, 0, 1)

    def learn(
        self, lmm: Lmm, learning: Learning, pooled: Pooled
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        from sklearn.feature_selection import mutual_info_classif  # Slow; only a fit needs it.

        x, y = pooled.fit
        width = x.shape[1]
        learning.say(f"mutual information: {width} features")
        shared = mutual_info_classif(x.double().numpy(), y.numpy(), random_state=0)
        dropped = np.argsort(-shared, kind="stable")[: dropped_count(self.drop, width)]
        kept = torch.ones(width)
        kept[dropped] = 0
        tensors = {"kept": kept, "mutual_information": torch.from_numpy(shared).float()}
        return tensors, {"drop": self.drop, "dropped": len(dropped)}

    def rule(self, tensors: Mapping[str, Tensor], alpha: float) -> FeatureRule | None:
        dropped = 1 - tensors["kept"]
        if not dropped.any():
            return None
        return FeatureEdit(1 - alpha * dropped, torch.zeros_like(dropped))


def dropped_count(drop: float, d_model: int) -> int:
    """floor(drop d_model), a share such as 0.29 of 100 not losing one to rounding."""
    return int(drop * d_model + 1e-9)
