"""Difference in means: one candidate direction for each layer, and which of them to take.

Source: Ratzlaff et al. 2024 (arXiv 2411.12590), sections 3.1 and 4.1; score and guards as in
Arditi et al. 2024 (arXiv 2406.11717).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from lmmsteer.engine.edit import Edit, ResidualAblation
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.base import Edited
from lmmsteer.methods.words import mentions
from lmmsteer.models.lmm import Lmm, PreparedPicture

Pair = tuple[str, PreparedPicture]
"""A prompt and the picture it is about."""

BATCH = 16
TINY = 1e-8  # Below this norm a difference is rounding; also Arditi's constant inside the logs.


@dataclass(frozen=True)
class Candidate:
    """What came of ablating one layer's direction: its score (lower is better) and its side effect.

    kl: KL(base || ablated) on neutral pairs, in nats. refused: the guard that it fails, or None.
    """

    layer: int
    score: float | None = None
    kl: float | None = None
    refused: str | None = None


def difference_in_means(lmm: Lmm, bias: Sequence[Pair], standard: Sequence[Pair]) -> Tensor:
    """a_l = mean of h_l over D_bias - mean of h_l over D_standard, for every layer l.

    h_l: output of block l (resid_post) at the last prompt position. [n_layers, d_model] float64.
    """
    return mean_outputs(lmm, bias) - mean_outputs(lmm, standard)


@torch.inference_mode()
def mean_outputs(lmm: Lmm, pairs: Sequence[Pair]) -> Tensor:
    """Mean block outputs at the last prompt position, summed in float64. [n_layers, d_model]."""
    total = torch.zeros(lmm.n_layers, lmm.d_model, dtype=torch.float64)

    def add(layer: int, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output  # [rows, tokens, d_model]
        total[layer] += hidden[:, -1].double().sum(0).cpu()

    with ExitStack() as placed:
        for layer, block in enumerate(lmm.layers):
            hook = block.register_forward_hook(lambda _, __, out, at=layer: add(at, out))
            placed.callback(hook.remove)
        for _ in _logits(lmm, pairs):
            pass
    return total / len(pairs)


@torch.inference_mode()
def last_logits(lmm: Lmm, pairs: Sequence[Pair]) -> Tensor:
    """Logits of the first answer token. [pairs, vocab] float64."""
    return torch.cat([logits.double().cpu() for logits in _logits(lmm, pairs)])


def _logits(lmm: Lmm, pairs: Sequence[Pair]) -> Iterator[Tensor]:
    for start in range(0, len(pairs), BATCH):
        prompts, pictures = zip(*pairs[start : start + BATCH], strict=True)
        inputs = lmm.inputs(prompts, pictures)
        yield lmm.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]


def log_odds(logits: Tensor, targets: Sequence[int]) -> float:
    """Mean log-odds of the target tokens' mass p: log(p) - log(1 - p). logits: [rows, vocab]."""
    mass = logits.softmax(-1)[:, list(targets)].sum(-1)
    return float(((mass + TINY).log() - (1 - mass + TINY).log()).mean())


def kl_divergence(base: Tensor, other: Tensor) -> float:
    """Mean KL(base || other) of next-token distributions, in nats. [rows, vocab] each."""
    p, q = base.log_softmax(-1), other.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@torch.inference_mode()
def mention_rate(
    lmm: Lmm, pairs: Sequence[Pair], words: Sequence[str], max_new_tokens: int
) -> float:
    """Mentions of the words in greedy answers, per answer."""
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(lmm.eos_ids) or None,
        pad_token_id=lmm.tokenizer.pad_token_id,
    )
    count = 0
    for start in range(0, len(pairs), BATCH):
        prompts, pictures = zip(*pairs[start : start + BATCH], strict=True)
        inputs = lmm.inputs(prompts, pictures)
        out = lmm.model.generate(**inputs, generation_config=config)
        answers = out[:, inputs["input_ids"].shape[1] :]
        texts = lmm.tokenizer.batch_decode(answers, skip_special_tokens=True)
        count += sum(mentions(text, words) for text in texts)
    return count / len(pairs)


def ablation_of(direction: Tensor) -> Edit:
    """The edit that ablates one direction of any length. direction: [d_model]."""
    unit = direction / direction.norm()
    return Edit(residual=ResidualAblation(unit.unsqueeze(0).float()))


@dataclass(frozen=True)
class Judge:
    """Scores a candidate on held-out pairs, and looks at what else it changes.

    score_of: what is to become low, measured on the model as it stands.
    """

    lmm: Lmm
    edited: Edited
    score_of: Any
    neutral: Sequence[Pair]
    kl_max: float
    first_refused_layer: int

    def candidates(self, differences: Tensor) -> list[Candidate]:
        """Every layer's candidate, ablated at all residual points. [n_layers, d_model]."""
        base = last_logits(self.lmm, self.neutral)
        return [self._candidate(layer, a, base) for layer, a in enumerate(differences)]

    def _candidate(self, layer: int, difference: Tensor, base: Tensor) -> Candidate:
        if not torch.isfinite(difference).all():
            return Candidate(layer, refused="not finite")
        if difference.norm() < TINY:
            return Candidate(layer, refused="zero")
        with self.edited(self.lmm, ablation_of(difference)):
            score = self.score_of()
            kl = kl_divergence(base, last_logits(self.lmm, self.neutral))
        refused = None
        if layer >= self.first_refused_layer:
            refused = "among the last layers"
        elif not kl <= self.kl_max:
            refused = "KL on neutral pairs"
        return Candidate(layer, score, kl, refused)


def select(candidates: Sequence[Candidate], kl_max: float) -> Candidate:
    """The lowest score among the candidates that pass every guard; of equal ones the smallest KL.

    Raises: LmmsteerError where none does; nothing is taken in its stead.
    """
    passed = [c for c in candidates if c.refused is None and c.score is not None]
    if passed:
        return min(passed, key=lambda c: (c.score, c.kl, c.layer))
    found = ", ".join(
        f"layer {c.layer}: {c.refused}" + (f" ({c.kl:.3g})" if c.kl is not None else "")
        for c in candidates
    )
    raise LmmsteerError(
        f"No layer's direction passed the guards (method.kl_max={kl_max}): {found}.",
        "Raise method.kl_max, lower method.drop_last, or give more pictures (method.images)",
    )
