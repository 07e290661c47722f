"""Which candidate direction to take, and how strongly: what is held out decides.

Source: Ratzlaff et al. 2024 (arXiv 2411.12590), sections 3.1 and 4.1; score and guards as in
Arditi et al. 2024 (arXiv 2406.11717).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import GenerationConfig

from lmmsteer.engine.edit import Edit
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.applying import Applying
from lmmsteer.methods.artifact import Artifact
from lmmsteer.methods.base import Edited
from lmmsteer.methods.extraction import BATCH, TINY, Pair, forward
from lmmsteer.methods.passes import Passes
from lmmsteer.methods.words import mentions
from lmmsteer.models.lmm import Lmm


@dataclass(frozen=True)
class Candidate:
    """What came of one layer's direction at one strength: its score (lower is better), its side
    effect.

    kl: KL(base || steered) on neutral pairs, in nats. refused: the guard that it fails, or None.
    """

    layer: int
    score: float | None = None
    kl: float | None = None
    refused: str | None = None
    alpha: float = 1.0


@torch.inference_mode()
def last_logits(lmm: Lmm, pairs: Sequence[Pair]) -> Tensor:
    """Logits of the first answer token. [pairs, vocab] float64."""
    found = []
    for start in range(0, len(pairs), BATCH):
        prompts, pictures = zip(*pairs[start : start + BATCH], strict=True)
        found.append(forward(lmm, lmm.inputs(prompts, pictures)).double().cpu())
    return torch.cat(found)


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


def direction_of(candidates: Tensor, mean: Tensor, layer: int) -> dict[str, Tensor]:
    """The tensors of an artifact whose direction is one layer's candidate, as a unit vector.

    candidates: [n_layers, d_model]; mean: of each block's input over neutral prompts, the same.
    """
    unit = candidates[layer] / candidates[layer].norm()
    return {
        "directions": unit.unsqueeze(0).float(),
        "candidates": candidates.float(),
        "mean": mean.float(),
    }


@dataclass(frozen=True)
class Judge:
    """Scores candidates on held-out pairs, and looks at what else they change.

    score_of: what is to become low, measured on the model as it stands. mode: how candidates are
    applied, as in `Applying`, at every token and layer (add: at the block that reads them).
    """

    lmm: Lmm
    edited: Edited
    score_of: Callable[[], float]
    neutral: Sequence[Pair]
    kl_max: float
    first_refused_layer: int
    mode: str = "project"
    say: Callable[[str], None] = lambda line: None
    passes: Passes = field(default_factory=Passes)

    def candidates(
        self, differences: Tensor, mean: Tensor, alphas: Sequence[float] = (1.0,)
    ) -> list[Candidate]:
        """Every layer's candidate at every strength. differences, mean: [n_layers, d_model]."""
        base = last_logits(self.lmm, self.neutral)
        problems = [self._unfit(layer, one) for layer, one in enumerate(differences)]
        tried = [
            (layer, at)
            for layer, problem in enumerate(problems)
            for at in range(len(alphas))
            if problem is None
        ]

        def measured(number: int) -> dict[str, Tensor]:
            layer, at = tried[number]
            trial = Artifact(direction_of(differences, mean, layer), {"layer": layer})
            found = self._measured(trial, alphas[at], base)
            return {"found": torch.tensor(found, dtype=torch.float64)}

        def there(number: int) -> None:
            self.say(f"layer {tried[number][0] + 1} of {len(differences)}")

        names = [f"layer-{layer}-strength-{at}" for layer, at in tried]
        figures = dict(zip(tried, self.passes.each(names, measured, there), strict=True))
        found = []
        for layer, problem in enumerate(problems):
            if problem is not None:
                found.append(Candidate(layer, refused=problem))
                continue
            for at, alpha in enumerate(alphas):
                score, kl = figures[layer, at]["found"].tolist()
                found.append(Candidate(layer, score, kl, self._refusal(layer, kl), alpha))
        return found

    def _unfit(self, layer: int, difference: Tensor) -> str | None:
        if not torch.isfinite(difference).all():
            return "not finite"
        if difference.norm() < TINY:
            return "zero"
        if self.mode == "add" and layer == self.lmm.n_layers - 1:
            return "no block reads it"
        return None

    def _measured(self, trial: Artifact, alpha: float, base: Tensor) -> tuple[float, float]:
        """The score under a candidate, and the KL divergence of the neutral answers from `base`."""
        applying = Applying(alpha=alpha, mode=self.mode)
        residual = applying.everywhere(trial, self.lmm.n_layers)
        with self.edited(self.lmm, Edit(residual=residual)):
            score = self.score_of()
            return score, kl_divergence(base, last_logits(self.lmm, self.neutral))

    def _refusal(self, layer: int, kl: float) -> str | None:
        if layer >= self.first_refused_layer:
            return "among the last layers"
        return None if kl <= self.kl_max else "KL on neutral pairs"


def select(candidates: Sequence[Candidate], kl_max: float) -> Candidate:
    """The lowest score among the candidates that pass every guard; of equal ones the smallest KL.

    Raises: LmmsteerError where none does; nothing is taken in its stead.
    """
    passed = [c for c in candidates if c.refused is None and c.score is not None]
    if passed:
        return min(passed, key=lambda c: (c.score, c.kl, c.layer, c.alpha))
    found = ", ".join(
        f"layer {c.layer}{_at(c.alpha)}: {c.refused}"
        + (f" ({c.kl:.3g})" if c.kl is not None else "")
        for c in candidates
    )
    raise LmmsteerError(
        f"No layer's direction passed the guards (method.kl_max={kl_max}): {found}.",
        "Raise method.kl_max, lower method.drop_last, give more pictures (method.images), or try "
        "lower strengths (method.alphas)",
    )


def _at(alpha: float) -> str:
    return "" if alpha == 1 else f" at alpha {alpha:g}"
