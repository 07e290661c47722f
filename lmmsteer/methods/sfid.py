"""SFID: the features that tell an attribute best take the value they have where it is unclear."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lmmsteer.engine.edit import FeatureEdit, FeatureRule
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.artifact import ModelFacts
from lmmsteer.methods.base import Learning
from lmmsteer.methods.feature_fit import FeatureMethod, Pooled, check_range
from lmmsteer.models.lmm import Lmm

TREES = 100


@dataclass(frozen=True)
class Sfid(FeatureMethod):
    """Selective feature imputation: the k most telling features are imputed at every token.

    A random forest (100 trees) learns the label from frozen features; I: its k most important ones;
    v_j = mean of feature j over held-out pictures whose largest class probability is below tau.
    x_I' = (1 - alpha) x_I + alpha v_I. Features are learnt from as each picture's mean over its
    tokens. Where no held-out picture is unclear, the fit is refused and says which tau would do.

    k: 0 changes nothing; 50 to 100 is recommended. tau in (0, 1]: 0.7 there for retrieval, 0.9 for
    captions. alpha in [0, 1]; the paper's is 1.
    Source: Jung et al., NeurIPS 2024 (SFID), and its public code.
    """

    name: str = "sfid"
    k: int = 50
    tau: float = 0.7

    shapes: ClassVar[Mapping[str, tuple[str | int, ...]]] = {"kept": ("d",), "imputed": ("d",)}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("k", self.k, 0)
        check_range("tau", self.tau, 0, 1)

    def suit_fit(self, facts: ModelFacts) -> None:
        if self.k > facts.feature_width:
            raise LmmsteerError(
                f"method.k={self.k} features are more than the {facts.feature_width} that "
                f"{facts.name} has.",
                f"Set method.k between 0 and {facts.feature_width}",
            )

    def learn(
        self, lmm: Lmm, learning: Learning, pooled: Pooled
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        from sklearn.ensemble import RandomForestClassifier  # Slow to import; only a fit needs it.

        learning.say(f"random forest: {TREES} trees")
        (x, y), (held, held_y) = pooled.fit, pooled.validation
        forest = RandomForestClassifier(n_estimators=TREES, random_state=0, n_jobs=1)
        forest.fit(x.numpy(), y.numpy())
        probabilities = np.asarray(forest.predict_proba(held.numpy()))
        unclear = probabilities.max(1) < self.tau
        if not unclear.any() and self.k:
            raise self._all_clear(float(probabilities.max(1).min()), len(held))
        order = np.argsort(-forest.feature_importances_, kind="stable")
        chosen = torch.from_numpy(order[: self.k].copy())
        kept, imputed = torch.ones(x.shape[1]), torch.zeros(x.shape[1])
        if self.k:
            kept[chosen] = 0
            imputed[chosen] = held[torch.from_numpy(unclear)].double().mean(0)[chosen].float()
        tensors = {
            "kept": kept,
            "imputed": imputed,
            "importances": torch.from_numpy(forest.feature_importances_).float(),
        }
        right = probabilities.argmax(1) == held_y.numpy()
        return tensors, {
            "k": self.k,
            "tau": self.tau,
            "unclear": int(unclear.sum()),
            "forest_accuracy": float(right.mean()),
        }

    def rule(self, tensors: Mapping[str, Tensor], alpha: float) -> FeatureRule | None:
        dropped = 1 - tensors["kept"]
        if not dropped.any():
            return None
        return FeatureEdit(1 - alpha * dropped, alpha * dropped * tensors["imputed"])

    def _all_clear(self, least: float, pictures: int) -> LmmsteerError:
        wanted = (math.floor(least * 100) + 1) / 100
        more = "hold more pictures out (method.validation), or name a larger data set"
        return LmmsteerError(
            f"The forest is sure of all {pictures} held-out pictures (largest class probability at "
            f"least {least:.4g}, method.tau={self.tau}), so there is no value to impute.",
            f"Set method.tau={wanted:g}, {more}" if wanted <= 1 else more.capitalize(),
        )
