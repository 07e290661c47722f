"""DeAR: a residual is learnt that hides an attribute from a classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from lmmsteer.engine.edit import FeatureRule
from lmmsteer.engine.edit.feature_rules import FeatureResidual
from lmmsteer.methods.base import Learning
from lmmsteer.methods.feature_fit import FeatureMethod, Pooled, centre_and_spread, check_range
from lmmsteer.models.lmm import Lmm

DECAY = 0.01  # Of the classifier: one that is too sure has no gradient to learn a residual from.
EPSILON = 1e-12  # Adam's; the residual's gradients are as small as the weights of its loss.
SAID = 100  # Steps between lines of progress.


@dataclass(frozen=True)
class Dear(FeatureMethod):
    """Additive residual: f' = f + alpha phi(f) at every token, phi(f) = fc2(relu(fc1 f)).

    A linear classifier c learns the label from frozen features (cross-entropy, weight decay 0.01)
    and is frozen; phi then lowers w_recon mean(phi(z)^2) - w_ent H(c(z + phi(z))) - w_ce CE(c(z +
    phi(z)), label). z: each picture's mean over its tokens, every feature standardised, which is
    folded into the weights afterwards. phi begins at zero. Both by Adam on all pictures at once, in
    float64, `steps` steps, the rate falling linearly to zero.

    The loss weights are this package's reading: the paper's are not known. width: hidden units of
    phi. alpha in [0, 1]: 0 changes nothing.
    Source: Seth et al. 2023 (arXiv 2303.10431).
    """

    name: str = "dear"
    w_recon: float = 1.0
    w_ent: float = 1e-4
    w_ce: float = 1e-4
    width: int = 256
    steps: int = 300
    rate: float = 1e-3
    seed: int = 0

    shapes: ClassVar[Mapping[str, tuple[str | int, ...]]] = {
        "w1": ("width", "d"),
        "b1": ("width",),
        "w2": ("d", "width"),
        "b2": ("d",),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("w_recon", "w_ent", "w_ce", "rate"):
            check_range(key, getattr(self, key), 0)
        check_range("width", self.width, 1)
        check_range("steps", self.steps, 1)

    def learn(
        self, lmm: Lmm, learning: Learning, pooled: Pooled
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        (x, y), (held, held_y) = pooled.fit, pooled.validation
        x, held = x.double(), held.double()
        centre, spread = centre_and_spread(x)
        # A caller's inference mode would hand out tensors that no gradient can pass.
        with torch.inference_mode(False), torch.enable_grad():
            z, y = ((x - centre) / spread).clone(), y.clone()
            classifier = _trained(
                learning, "classifier", lambda: self.classifier(z, y, len(pooled.classes), learning)
            )
            weights = _trained(
                learning, "residual", lambda: self.residual(z, y, classifier, learning)
            )
        tensors = {k: x.float() for k, x in folded(weights, centre, spread).items()}
        seen = (held - centre) / spread

        def accuracy(z: Tensor) -> float:
            return float((linear(z, *classifier).argmax(-1) == held_y).double().mean())

        return tensors, {
            "w_recon": self.w_recon,
            "w_ent": self.w_ent,
            "w_ce": self.w_ce,
            "classifier_accuracy": accuracy(seen),
            "classifier_accuracy_edited": accuracy(seen + _phi(seen, weights)),
            "residual_size": float(_phi(seen, weights).square().mean().sqrt()),
        }

    def rule(self, tensors: Mapping[str, Tensor], alpha: float) -> FeatureRule | None:
        return FeatureResidual(*(tensors[name] for name in self.shapes), alpha=alpha)

    def classifier(self, z: Tensor, y: Tensor, classes: int, learning: Learning) -> list[Tensor]:
        """Weights [classes, d_model] and biases [classes] that read the label; both begin at 0."""
        w = z.new_zeros(classes, z.shape[1])
        b = z.new_zeros(classes)

        def loss(w: Tensor, b: Tensor) -> Tensor:
            return cross_entropy(linear(z, w, b), y) + DECAY / 2 * w.square().sum()

        return self._lowered(loss, [w, b], "classifier", learning)

    def residual(
        self, z: Tensor, y: Tensor, classifier: list[Tensor], learning: Learning
    ) -> list[Tensor]:
        """w1, b1, w2, b2 of phi; w1 is drawn from N(0, 1 / d_model), the others begin at 0."""
        d_model = z.shape[1]
        generator = torch.Generator().manual_seed(self.seed)
        w1 = torch.randn(self.width, d_model, generator=generator, dtype=z.dtype) / d_model**0.5
        b1, w2, b2 = z.new_zeros(self.width), z.new_zeros(d_model, self.width), z.new_zeros(d_model)

        def loss(*weights: Tensor) -> Tensor:
            phi = _phi(z, weights)
            logits = linear(z + phi, *classifier)
            surprise = logits.log_softmax(-1)
            entropy = -(surprise.exp() * surprise).sum(-1).mean()
            hidden = self.w_ent * entropy + self.w_ce * cross_entropy(logits, y)
            return self.w_recon * phi.square().mean() - hidden

        return self._lowered(loss, [w1, b1, w2, b2], "residual", learning)

    def _lowered(
        self, loss: Any, start: list[Tensor], what: str, learning: Learning
    ) -> list[Tensor]:
        """What Adam makes of the weights that a loss takes."""
        weights = [x.requires_grad_() for x in start]
        optimiser = torch.optim.Adam(weights, lr=self.rate, eps=EPSILON)
        for step in range(self.steps):
            optimiser.param_groups[0]["lr"] = self.rate * (1 - step / self.steps)
            optimiser.zero_grad()
            found = loss(*weights)
            found.backward()
            optimiser.step()
            if (step + 1) % SAID == 0 or step + 1 == self.steps:
                learning.say(f"{what}: step {step + 1} of {self.steps}, loss {found.item():.4g}")
        return [x.detach() for x in weights]


def _trained(learning: Learning, name: str, train: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
    """The weights that a training ends with, a pass."""
    found = learning.passes.once(name, lambda: {str(at): x for at, x in enumerate(train())})
    return [found[str(at)] for at in range(len(found))]


def folded(weights: list[Tensor], centre: Tensor, spread: Tensor) -> dict[str, Tensor]:
    """The residual of features as they are, from that of standardised ones.

    spread phi((f - centre) / spread) = w2' relu(w1' f + b1') + b2'.
    """
    w1, b1, w2, b2 = weights
    return {
        "w1": w1 / spread,
        "b1": b1 - w1 @ (centre / spread),
        "w2": w2 * spread.unsqueeze(1),
        "b2": b2 * spread,
    }


def _phi(z: Tensor, weights: Any) -> Tensor:
    w1, b1, w2, b2 = weights
    return linear(linear(z, w1, b1).relu(), w2, b2)
