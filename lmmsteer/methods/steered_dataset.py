"""Steered Dataset: one direction for an attribute, found from a data set, ablated everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from lmmsteer.engine.edit import Edit
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.answers import token_ids
from lmmsteer.methods.applying import MODES, Applying, check_alpha, check_known
from lmmsteer.methods.artifact import Artifact
from lmmsteer.methods.base import Context, Learning
from lmmsteer.methods.directions import (
    Candidate,
    Judge,
    direction_of,
    last_logits,
    log_odds,
    mention_rate,
    select,
)
from lmmsteer.methods.extraction import EXTRACTIONS, POSITIONS, Pair, extract, states
from lmmsteer.methods.text_files import benign_questions
from lmmsteer.methods.words import spellings
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request

NEUTRAL = (
    "What is the background of the photo?",
    "What is the weather in the photo?",
    "What objects are in the photo?",
    "What is the occupation of the person in the photo?",
    "What is the person holding?",
    "What is beside the person?",
)
OPEN = (
    "Describe the image in as much detail as possible.",
    "What are 5 keywords that describe the characteristics of this person?",
)
SCORES = ("log_odds", "mentions")
ANSWER_TOKENS = 64  # Of the answers that a fit reads or counts mentions in.


@dataclass(frozen=True)
class SteeredDataset(Applying):
    """Ablates what tells direct questions from neutral ones, a direction of the residual stream.

    a = mean h(picture, question) - mean h(picture, neutral prompt), a unit vector;
    r' = r - alpha a a^T r at every residual, or what `mode` says. One candidate for each layer and
    each of `alphas`; taken is the lowest `score` on `held_out` pictures among those that change
    neutral answers by at most `kl_max` and do not come from the last `drop_last` of the layers.

    artifact: null is the fitted one. images: pictures of D_bias, and pairs of D_standard. question,
    words: null is the attribute's. neutral: what is asked instead; neutral_from: a file of
    LLaVA-Instruct, whose questions without the attribute's words take its place. extraction: mean,
    pca (the paired differences' first principal component) or probe (logistic regression).
    position: of h, prompt_last, prompt_mean (the text's tokens) or response_mean (those of the
    greedy answers). score: log_odds (of the words' tokens, at the first answer position) or
    mentions (in greedy answers to `open_prompts`). judged_as: the mode that candidates are tried
    in. alphas: the strengths tried; alpha null uses the one that is taken.
    Source: Ratzlaff et al. 2024 (arXiv 2411.12590), sections 3.1, 4.1 (there: 256 pictures, 10
    held out); guards of Arditi et al. 2024 (arXiv 2406.11717).
    """

    name: str = "steered_dataset"
    artifact: str | None = None
    images: int = 64
    held_out: int = 10
    question: str | None = None
    words: list[str] | None = None
    neutral: list[str] = field(default_factory=lambda: list(NEUTRAL))
    neutral_from: str | None = None
    extraction: str = "mean"
    position: str = "prompt_last"
    score: str = "log_odds"
    open_prompts: list[str] = field(default_factory=lambda: list(OPEN))
    kl_max: float = 0.1
    drop_last: float = 0.2
    judged_as: str = "project"
    alphas: list[float] = field(default_factory=lambda: [1.0])

    needs_attribute: ClassVar[bool] = True
    needs_artifact: ClassVar[bool] = True
    fitted: ClassVar[bool] = True
    sources: ClassVar[frozenset[str]] = frozenset({"neutral_from"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known(
            extraction=(self.extraction, EXTRACTIONS),
            position=(self.position, POSITIONS),
            score=(self.score, SCORES),
            judged_as=(self.judged_as, MODES),
        )
        for alpha in self.alphas:
            check_alpha(alpha, self.judged_as, "alphas")
        if not self.alphas:
            raise LmmsteerError("method.alphas=[] tries no strength.", "Use method.alphas=[1.0]")
        for key in ("neutral", "open_prompts"):
            if not getattr(self, key):
                raise LmmsteerError(f"method.{key}=[] asks nothing.", "List at least one prompt")

    @property
    def pictures_needed(self) -> int:
        """Pictures that a fit uses; it does with fewer, down to two beside the held-out ones."""
        return self.images + self.held_out

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        return Edit(residual=self.residual(lmm, context.artifact, requests, context))

    def fit(self, lmm: Lmm, learning: Learning) -> Artifact:
        """The direction of an attribute, from the first pictures; the last ones are held out."""
        attribute = learning.attribute
        question = self.question or attribute.question
        words = tuple(self.words) if self.words is not None else attribute.words
        pictures = dict(list(learning.pictures.items())[: self.pictures_needed])
        neutral = list(self.neutral)
        if self.neutral_from is not None:
            neutral = benign_questions(self.neutral_from, words, self.pictures_needed)
        fit_pairs, held_out = self._split(lmm, pictures, neutral)
        bias = self._states(lmm, learning, "bias", pictures, _asked(fit_pairs, question))
        standard = self._states(lmm, learning, "standard", pictures, fit_pairs)
        found = extract(self.extraction, bias[:, 1:], standard[:, 1:])
        mean = standard[:, :-1].mean(0, dtype=torch.float64)
        score_of = self._score_of(lmm, held_out, question, words)
        first_refused = int((1 - self.drop_last) * lmm.n_layers)
        judge = Judge(
            lmm,
            learning.edited,
            score_of,
            held_out,
            self.kl_max,
            first_refused,
            self.judged_as,
            learning.say,
            learning.passes,
        )
        tried = judge.candidates(found, mean, self.alphas)
        best = select(tried, self.kl_max)
        metadata = {
            **self.origin(lmm, learning.attribute),
            "layer": best.layer,
            "alpha": best.alpha,
            "judged_as": self.judged_as,
            "extraction": self.extraction,
            "position": self.position,
            "question": question,
            "words": list(words),
            "score": self.score,
            "score_before": score_of(),
            "score_after": best.score,
            "scores": [_row(candidate) for candidate in tried],
            "kl_max": self.kl_max,
            "drop_last": self.drop_last,
            "images": len(fit_pairs),
            "held_out": len(held_out),
            "neutral": neutral,
            "data_digest": _data_digest(pictures),
            "d_model": lmm.d_model,
            "n_layers": lmm.n_layers,
        }
        return Artifact(direction_of(found, mean, best.layer), metadata)

    def _states(
        self,
        lmm: Lmm,
        learning: Learning,
        name: str,
        pictures: Mapping[str, Image.Image],
        pairs: Sequence[Pair],
    ) -> Tensor:
        """Hidden states of the first pictures' pairs. [pairs, n_layers + 1, d_model] float32."""
        answers = self._answers(lmm, learning, name, pictures, pairs)

        def computed(some: Sequence[int]) -> Tensor:
            chosen, said = [pairs[at] for at in some], [answers[at] for at in some]
            return states(lmm, chosen, self.position, said)

        def there(count: int) -> None:
            learning.say(f"hidden states of {name} pairs: {count} of {len(pairs)}")

        return learning.passes.rows(f"{name}-states", range(len(pairs)), computed, there=there)

    def _answers(
        self,
        lmm: Lmm,
        learning: Learning,
        name: str,
        pictures: Mapping[str, Image.Image],
        pairs: Sequence[Pair],
    ) -> Sequence[Sequence[int]]:
        """What the model answers to each pair, where its states are read."""
        if self.position != "response_mean":
            return [()] * len(pairs)
        shown = list(pictures)[: len(pairs)]
        requests = [
            Request(f"{at:032x}", image_id, "fit", prompt, 0)
            for at, (image_id, (prompt, _)) in enumerate(zip(shown, pairs, strict=True))
        ]
        return token_ids(lmm, learning, f"{name}-answers", requests, pictures, ANSWER_TOKENS)

    def _split(
        self, lmm: Lmm, pictures: Mapping[str, Image.Image], neutral: Sequence[str]
    ) -> tuple[list[Pair], list[Pair]]:
        """Neutral pairs of the pictures to learn from, and of those held out."""
        if len(pictures) < self.held_out + 2 or self.held_out < 1:
            raise LmmsteerError(
                f"{len(pictures)} readable pictures are too few to fit on: {self.held_out} are "
                "held out, and at least 2 must be left.",
                "Name a larger data set, or lower method.held_out (at least 1)",
            )
        prepared = [lmm.prepare(picture) for picture in pictures.values()]
        pairs = [(neutral[at % len(neutral)], p) for at, p in enumerate(prepared)]
        return pairs[: -self.held_out], pairs[-self.held_out :]

    def _score_of(
        self, lmm: Lmm, held_out: Sequence[Pair], question: str, words: Sequence[str]
    ) -> Callable[[], float]:
        if self.score == "mentions":
            prompts = self.open_prompts
            pairs = [(prompts[at % len(prompts)], p) for at, (_, p) in enumerate(held_out)]
            return lambda: mention_rate(lmm, pairs, words, ANSWER_TOKENS)
        targets = spellings(lmm.tokenizer, words)
        if not targets:
            raise LmmsteerError(
                f"No single token of {lmm.name} spells any of the words: {', '.join(words)}.",
                "Give more words (method.words), or use method.score=mentions",
            )
        asked = _asked(held_out, question)
        return lambda: log_odds(last_logits(lmm, asked), targets)


def _asked(pairs: Sequence[Pair], question: str) -> list[Pair]:
    return [(question, picture) for _, picture in pairs]


def _row(candidate: Candidate) -> dict[str, float | str | None]:
    return {
        "layer": candidate.layer,
        "alpha": candidate.alpha,
        "score": candidate.score,
        "kl": candidate.kl,
        "refused": candidate.refused,
    }


def _data_digest(pictures: Mapping[str, Image.Image]) -> str:
    """sha256 over the pictures as they were shown: ids, sizes, RGB bytes."""
    found = hashlib.sha256()
    for image_id, picture in pictures.items():
        found.update(f"{image_id}\0{picture.width}x{picture.height}\0".encode())
        found.update(picture.tobytes())
    return found.hexdigest()
