"""Steered Dataset: one direction for an attribute, found from a data set, ablated everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from PIL import Image
from torch import Tensor

from lmmsteer import __version__
from lmmsteer.engine.edit import Edit
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.ablation import check_alpha, remove_artifact
from lmmsteer.methods.artifact import Artifact
from lmmsteer.methods.base import Attribute, Context, Edited, Method
from lmmsteer.methods.directions import (
    Candidate,
    Judge,
    Pair,
    ablation_of,
    difference_in_means,
    last_logits,
    log_odds,
    mention_rate,
    select,
)
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
SCORE_TOKENS = 64


@dataclass(frozen=True)
class SteeredDataset(Method):
    """Ablates the difference in means between direct questions and neutral ones.

    a = mean h(picture, question) - mean h(picture, neutral prompt), a unit vector;
    r' = r - alpha a a^T r at every residual. One candidate for each layer; taken is the lowest
    `score` on `held_out` pictures among those that change neutral answers by at most `kl_max` and
    do not come from the last `drop_last` of the layers.

    artifact: null is the fitted one. images: pictures of D_bias, and pairs of D_standard.
    question, words: null is the attribute's. score: log_odds (of the words' tokens, at the first
    answer position) or mentions (in greedy answers to `open_prompts`).
    Source: Ratzlaff et al. 2024 (arXiv 2411.12590), sections 3.1, 4.1 (there: 256 pictures, 10
    held out); guards of Arditi et al. 2024 (arXiv 2406.11717).
    """

    name: str = "steered_dataset"
    artifact: str | None = None
    alpha: float = 1.0
    images: int = 64
    held_out: int = 10
    question: str | None = None
    words: list[str] | None = None
    neutral: list[str] = field(default_factory=lambda: list(NEUTRAL))
    position: str = "prompt_last"
    score: str = "log_odds"
    open_prompts: list[str] = field(default_factory=lambda: list(OPEN))
    kl_max: float = 0.1
    drop_last: float = 0.2

    needs_attribute: ClassVar[bool] = True
    needs_artifact: ClassVar[bool] = True
    fitted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        for key, value, known in (
            ("position", self.position, ("prompt_last",)),
            ("score", self.score, SCORES),
        ):
            if value not in known:
                raise LmmsteerError(
                    f"method.{key}={value} is not known.", f"Use method.{key}={'|'.join(known)}"
                )

    @property
    def pictures_needed(self) -> int:
        """Pictures that a fit uses; it does with fewer, down to two beside the held-out ones."""
        return self.images + self.held_out

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        return remove_artifact(context, self.alpha)

    def fit(
        self,
        lmm: Lmm,
        pictures: Mapping[str, Image.Image],
        attribute: Attribute,
        edited: Edited,
    ) -> Artifact:
        """The direction of an attribute, from the first pictures; the last ones are held out."""
        question = self.question or attribute.question
        words = tuple(self.words) if self.words is not None else attribute.words
        pictures = dict(list(pictures.items())[: self.pictures_needed])
        fit_pairs, held_out = self._split(lmm, pictures)
        differences = difference_in_means(lmm, _asked(fit_pairs, question), fit_pairs)
        score_of = self._score_of(lmm, held_out, question, words)
        first_refused = int((1 - self.drop_last) * lmm.n_layers)
        judge = Judge(lmm, edited, score_of, held_out, self.kl_max, first_refused)
        found = judge.candidates(differences)
        best = select(found, self.kl_max)
        metadata = {
            "model": lmm.name,
            "model_digest": lmm.digest,
            "revision": lmm.revision,
            "attribute": attribute.name,
            "method": self.name,
            "layer": best.layer,
            "position": self.position,
            "question": question,
            "words": list(words),
            "score": self.score,
            "score_before": score_of(),
            "scores": [_row(candidate) for candidate in found],
            "kl_max": self.kl_max,
            "drop_last": self.drop_last,
            "images": len(fit_pairs),
            "held_out": len(held_out),
            "neutral": list(self.neutral),
            "data_digest": _data_digest(pictures),
            "d_model": lmm.d_model,
            "n_layers": lmm.n_layers,
            "version": __version__,
        }
        return Artifact(_tensors(differences, best.layer), metadata)

    def _split(
        self, lmm: Lmm, pictures: Mapping[str, Image.Image]
    ) -> tuple[list[Pair], list[Pair]]:
        """Neutral pairs of the pictures to learn from, and of those held out."""
        if len(pictures) < self.held_out + 2 or self.held_out < 1:
            raise LmmsteerError(
                f"{len(pictures)} readable pictures are too few to fit on: {self.held_out} are "
                "held out, and at least 2 must be left.",
                "Name a larger data set, or lower method.held_out (at least 1)",
            )
        prepared = [lmm.prepare(picture) for picture in pictures.values()]
        pairs = [(self.neutral[at % len(self.neutral)], p) for at, p in enumerate(prepared)]
        return pairs[: -self.held_out], pairs[-self.held_out :]

    def _score_of(
        self, lmm: Lmm, held_out: Sequence[Pair], question: str, words: Sequence[str]
    ) -> Callable[[], float]:
        if self.score == "mentions":
            prompts = self.open_prompts
            pairs = [(prompts[at % len(prompts)], p) for at, (_, p) in enumerate(held_out)]
            return lambda: mention_rate(lmm, pairs, words, SCORE_TOKENS)
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
        "score": candidate.score,
        "kl": candidate.kl,
        "refused": candidate.refused,
    }


def _tensors(differences: Tensor, layer: int) -> dict[str, Tensor]:
    chosen = ablation_of(differences[layer]).residual
    assert chosen is not None
    return {"directions": chosen.directions, "candidates": differences.float()}


def _data_digest(pictures: Mapping[str, Image.Image]) -> str:
    """sha256 over the pictures as they were shown: ids, sizes, RGB bytes."""
    found = hashlib.sha256()
    for image_id, picture in pictures.items():
        found.update(f"{image_id}\0{picture.width}x{picture.height}\0".encode())
        found.update(picture.tobytes())
    return found.hexdigest()
