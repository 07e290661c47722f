"""One gradient step on a picture's tokens, and what it changes at every layer.

Two forward passes and one backward pass for each picture; the vision tower runs once, parameters
get no gradients, and the second pass ends at the last layer that is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.base import Features
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm, PreparedPicture

LOSSES = ("mse", "kl", "column_ce")
POSITIONS = ("prompt_last", "prompt_mean")
TOKENS = 2600  # Of one pass; beyond, larger ones bring nothing, and activations are kept for all.


@dataclass(frozen=True)
class Asked:
    """What is asked of every picture. epsilon: in standard deviations of u; below 0 ascends.

    layer: the one whose direction is wanted (None: each layer's). alone: one picture a pass.
    """

    question: str
    targets: tuple[int, ...]
    loss: str = "mse"
    epsilon: float = 0.1
    layer: int | None = None
    position: str = "prompt_last"
    alone: bool = False


class _Enough(Exception):
    """All that is wanted of a pass is there."""


def gradient_directions(
    lmm: Lmm, pictures: Sequence[PreparedPicture], asked: Asked, features: Features | None = None
) -> Tensor:
    """The unit vectors a_l of every picture; a difference that is exactly zero stays zero.

    [pictures, n_layers, d_model] float32, or [pictures, 1, d_model] where one layer is asked for.
    Raises: LmmsteerError where the gradient of every picture of a batch is exactly zero.
    """
    ids = [tuple(lmm.token_ids(asked.question, picture.shown)) for picture in pictures]
    found: dict[int, Tensor] = {}
    for batch in _batches(ids, 1 if asked.alone else TOKENS):
        together = _Pass(lmm, ids[batch[0]], [pictures[at] for at in batch], asked, features)
        found.update(zip(batch, together.directions(), strict=True))
    return torch.stack([found[at] for at in range(len(pictures))])


def loss_of(logits: Tensor, targets: Tensor, name: str) -> Tensor:
    """What is lowered so that targets become likelier, summed over rows. logits: [rows, vocab].

    mse: 1/(2|T|) sum_t (logit_t - M_t)^2, M_t = logit_t + max logit, without gradient; kl:
    KL(q || p), q uniform over T; column_ce: -sum_t log p_t.
    """
    logits = logits.float()
    if name == "mse":
        chosen = logits[:, targets]
        goal = (chosen + logits.amax(-1, keepdim=True)).detach()
        return (chosen - goal).square().sum() / (2 * len(targets))
    logs = logits.log_softmax(-1)[:, targets]
    return -logs.mean(-1).sum() if name == "kl" else -logs.sum()  # kl: up to a constant


class _Pass:
    """Pictures behind one question, of equal length: no padding, one batch."""

    def __init__(
        self,
        lmm: Lmm,
        ids: tuple[int, ...],
        pictures: Sequence[PreparedPicture],
        asked: Asked,
        features: Features | None,
    ) -> None:
        self.lmm, self.pictures, self.asked = lmm, pictures, asked
        self.decoding = DECODING[lmm.family.name]
        self.ids = torch.tensor([ids] * len(pictures), device=lmm.device.torch_device())
        with torch.no_grad():
            seen = (features or self.decoding.features)(lmm, pictures)
        self.u = torch.stack([one.detach().clone() for one in seen])  # [pictures, tokens, d]
        self.real = torch.ones(self.u.shape[:2], dtype=torch.bool, device=self.u.device)
        if self.decoding.cross_layers(lmm):
            for row, picture in zip(self.real, pictures, strict=True):
                row[self.decoding.valid(lmm, picture) :] = False  # Padding tiles.

    def directions(self) -> Tensor:
        """[pictures, layers, d_model] float32."""
        before, gradient = self._first()
        after = self._hidden(self.u + self._step(gradient))
        difference = (after - before).float()
        norm = difference.norm(dim=-1, keepdim=True)
        return torch.where(norm == 0, difference, difference / norm)

    def _first(self) -> tuple[Tensor, Tensor]:
        u = self.u.clone().requires_grad_()
        with torch.enable_grad():
            with self._collecting(None) as kept:
                hidden = self._decode(u)
            logits = self.decoding.logits(self.lmm, hidden[:, -1])
            targets = torch.tensor(self.asked.targets, device=logits.device)
            loss = loss_of(logits, targets, self.asked.loss)
            (gradient,) = torch.autograd.grad(loss, u)
        if not gradient[self.real].any():
            raise LmmsteerError(
                f"The loss of method.loss={self.asked.loss} has no gradient at the pictures' "
                "tokens: every one is exactly zero.",
                "Ask another question (method.question), or use float32 (model.dtype=float32)",
            )
        return torch.stack(kept, 1), gradient

    def _step(self, gradient: Tensor) -> Tensor:
        """-eps sign(gradient), eps = epsilon * std(u) of each picture's own tokens."""
        count = self.real.sum(1)[:, None, None] * self.u.shape[-1]
        real = self.real.unsqueeze(-1)
        values = self.u.float().masked_fill(~real, 0.0)
        mean = values.sum((1, 2), keepdim=True) / count
        spread = (values - mean).square().masked_fill(~real, 0.0).sum((1, 2), keepdim=True)
        step = self.asked.epsilon * (spread / (count - 1)).sqrt()
        return -(step * gradient.float().sign()).masked_fill(~real, 0.0).to(self.u.dtype)

    @torch.no_grad()
    def _hidden(self, u: Tensor) -> Tensor:
        with self._collecting(self.asked.layer) as kept, suppress(_Enough):
            self._decode(u)
        return torch.stack(kept, 1)

    @contextmanager
    def _collecting(self, last: int | None) -> Iterator[list[Tensor]]:
        """Block outputs at the position asked for, [pictures, d_model] each.

        last: the layer with which the pass ends.
        """
        kept: list[Tensor] = []
        wanted = self.asked.layer

        def keep(layer: int, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if wanted is None or layer == wanted:
                kept.append(self._at(hidden.detach()))
            if layer == last:
                raise _Enough

        with ExitStack() as placed:
            for layer, block in enumerate(self.lmm.layers):
                hook = block.register_forward_hook(lambda _, __, out, at=layer: keep(at, out))
                placed.callback(hook.remove)
            yield kept

    def _at(self, hidden: Tensor) -> Tensor:
        if self.asked.position == "prompt_last":
            return hidden[:, -1]
        text = (self.ids != self.lmm.image_token_id).unsqueeze(-1)
        return hidden.float().mul(text).sum(1) / text.sum(1)

    def _decode(self, u: Tensor) -> Tensor:
        arguments = self.decoding.prefix(self.lmm, self.ids, self.pictures, list(u))
        if (mask := self.decoding.mask(self.lmm, self.ids)) is not None:
            arguments["attention_mask"] = mask
        return self.decoding.decoder(self.lmm)(**arguments, use_cache=False)[0]


def _batches(ids: Sequence[tuple[int, ...]], tokens: int) -> Iterator[list[int]]:
    """Pictures whose question has the same ids, at most so many tokens together."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for at, found in enumerate(ids):
        alike.setdefault(found, []).append(at)
    for found, members in alike.items():
        size = max(1, tokens // len(found))
        for start in range(0, len(members), size):
            yield members[start : start + size]
