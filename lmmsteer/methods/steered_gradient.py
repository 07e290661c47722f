"""Steered Gradient: a direction for each picture, from one gradient step on its encoded tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lmmsteer.engine.edit import EVERYWHERE, Edit, ResidualEdit, check_scope, touches_of
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.artifact import ModelFacts
from lmmsteer.methods.base import Context, Method
from lmmsteer.methods.gradient import LOSSES, POSITIONS, Asked, gradient_directions
from lmmsteer.methods.words import spellings
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request

SIGNS = ("descent", "printed")


@dataclass(frozen=True)
class SteeredGradient(Method):
    """Ablates what one step towards naming the attribute changes in a picture's residual stream.

    u: the picture's tokens as the decoder reads them; x: the direct question; T: single-token
    spellings of the words. L = 1/(2|T|) sum_t (logit_t - M_t)^2 at the first answer position, with
    M_t = logit_t + max logit, a constant; u' = u - eps sign(grad_u L), eps = epsilon * std(u);
    a_l = h_l(x, u') - h_l(x, u), a unit vector, ablated at layer l's three places:
    r' = r - alpha a a^T r. Once for each picture, shared by its prompts and seeds. A layer whose
    difference is exactly zero is left alone; one that is not finite makes its rows `nonfinite`.

    question, words: null is the attribute's. loss: mse, kl (of p from the uniform distribution over
    T), column_ce (sum over T of -log p). sign: `descent` is what the paper says it wants; `printed`
    is its formula as printed, u + eps sign(grad), which lowers the targets. layer: per_layer, or
    the index of one layer whose direction is used at all. position of h: prompt_last, or
    prompt_mean (over the tokens that are not the picture's). scope: whose residuals, as in
    method=ablation.
    Llama-3.2-Vision: u is the projected cross-attention states without padding tiles.
    Source: Ratzlaff et al. 2024 (arXiv 2411.12590), sections 3.1 and 5.2.
    """

    name: str = "steered_gradient"
    question: str | None = None
    words: list[str] | None = None
    epsilon: float = 0.1
    loss: str = "mse"
    sign: str = "descent"
    layer: Any = "per_layer"
    position: str = "prompt_last"
    alpha: float = 1.0
    scope: list[str] | None = None

    needs_attribute: ClassVar[bool] = True

    def __post_init__(self) -> None:
        known = (
            ("loss", self.loss, LOSSES),
            ("position", self.position, POSITIONS),
            ("sign", self.sign, SIGNS),
        )
        for key, value, names in known:
            if value not in names:
                raise LmmsteerError(
                    f"method.{key}={value} is not known.", f"Use method.{key}={'|'.join(names)}"
                )
        if not (self.layer == "per_layer" or _is_index(self.layer)):
            raise LmmsteerError(
                f"method.layer={self.layer} is no layer.", "Use method.layer=per_layer or an index"
            )
        if not 0 < self.epsilon < float("inf"):
            raise LmmsteerError(
                f"method.epsilon={self.epsilon} is no step.", "Set method.epsilon above 0"
            )
        if not 0 <= self.alpha <= 1:
            raise LmmsteerError(
                f"method.alpha={self.alpha} is not a share.", "Set method.alpha between 0 and 1"
            )
        if self.scope is not None:
            check_scope(frozenset(self.scope))

    @property
    def touches(self) -> frozenset[str]:
        return frozenset({"residual"} | touches_of(self.scope))

    def suit(self, facts: ModelFacts) -> None:
        if facts.n_layers is not None:
            self._check_layer(facts.n_layers, facts.name)

    def _check_layer(self, n_layers: int, name: str) -> None:
        if _is_index(self.layer) and not 0 <= self.layer < n_layers:
            raise LmmsteerError(
                f"method.layer={self.layer} is no layer of {name}.",
                f"Use an index from 0 to {n_layers - 1}",
            )

    @property
    def attribute_given(self) -> bool:
        return self.question is not None and self.words is not None

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        found, of = self.directions(lmm, requests, context)
        scope = EVERYWHERE if self.scope is None else frozenset(self.scope)
        return Edit(residual=ResidualEdit(found, self.alpha, tuple(of), scope=scope))

    def directions(
        self, lmm: Lmm, requests: Sequence[Request], context: Context
    ) -> tuple[Tensor, list[int]]:
        """[pictures, n_layers or 1, 1, d_model], and the picture of each request."""
        given = context.attribute
        question = self.question or (given.question if given else "")
        words = self.words if self.words is not None else (given.words if given else ())
        targets = spellings(lmm.tokenizer, words)
        if not question or not targets:
            why = "no question" if not question else f"no token that spells any of: {list(words)}"
            raise LmmsteerError(
                f"method=steered_gradient has {why}.",
                "Give method.question and method.words, or another attribute",
            )
        self._check_layer(lmm.n_layers, lmm.name)
        shown = list(dict.fromkeys(request.image_id for request in requests))
        asked = Asked(
            question=question,
            targets=tuple(targets),
            loss=self.loss,
            epsilon=self.epsilon if self.sign == "descent" else -self.epsilon,
            layer=self.layer if _is_index(self.layer) else None,
            position=self.position,
            alone=context.alone,
        )
        found = gradient_directions(
            lmm, [lmm.prepare(context.pictures[i]) for i in shown], asked, context.features
        )
        at = {image_id: index for index, image_id in enumerate(shown)}
        return found.unsqueeze(2).cpu(), [at[request.image_id] for request in requests]


def _is_index(layer: Any) -> bool:
    return isinstance(layer, int) and not isinstance(layer, bool)
