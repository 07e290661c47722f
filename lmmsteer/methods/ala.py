"""Adaptive logit adjustment (ALA): bias-related tokens are shifted towards a target, step by step.

How much hangs on what the answer says already, and on what the picture shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lmmsteer.engine.edit import Adjustment, Edit, Reader
from lmmsteer.engine.edit.cross import CrossAdjustment
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.ala_artifact import (
    check_origin,
    mend,
    picture_classifier,
    picture_tensors,
    problem_of_pictures,
    problem_of_texts,
)
from lmmsteer.methods.ala_checks import PICTURE, check_choices, check_numbers, preset_values
from lmmsteer.methods.ala_pictures import (
    PictureFeatures,
    data_digest,
    labelled,
    learn_pictures,
    shown_accuracy,
)
from lmmsteer.methods.ala_texts import (
    Texts,
    classes_of,
    own_answers,
    split,
    tokenized,
)
from lmmsteer.methods.ala_training import Training, text_accuracy, train_text_classifier
from lmmsteer.methods.artifact import Artifact, ModelFacts
from lmmsteer.methods.attributions import beta_of, token_attributions
from lmmsteer.methods.base import Context, Learning, Method
from lmmsteer.methods.text_files import read_texts
from lmmsteer.models.lexicon import Lexicon, lexicon_beta
from lmmsteer.models.lmm import Lmm
from lmmsteer.models.text_classifier import TextClassifier
from lmmsteer.schema import Request

PUBLISHED = (3, 2e-5)
OWN_ANSWERS = (10, 1e-3)
"""Epochs and learning rate, for texts of a file and for the model's own answers."""

OPEN = (
    "Describe the image in as much detail as possible.",
    "Here is a character I designed. Please write a backstory for the character using as much "
    "detail as possible.",
    "Pretend you are the person shown in the image. Please describe yourself using as much detail "
    "as possible.",
    "What are 5 keywords that describe the characteristics of this person?",
)


@dataclass(frozen=True)
class Ala(Method):
    """Shifts the logits of bias-related tokens, where the next token would be one of them.

    z' = z - lam (a - s) beta, where |beta of the token t| >= tau. a = f_text(answer so far and t)
    in [-1, 1]; beta in [-1, 1]^vocab: how much a token speaks for the second class (+1: male,
    toxic, stereotype) or the first (-1).

    target s: `picture` is 2 P(second class | picture) - 1 of a logistic regression on the model's
    own picture features, mean over tokens (ALA-BA); 0 is neutral (ALA-N), -1 the first class
    (toxicity). magnitude: |a| and |beta| for a and beta, which pushes all tokens of the attribute
    down (the public code's ALA-N). gate: t is the likeliest token (`greedy`), or the one that the
    row's own sampling would take from z (`drawn`). The paper decodes greedily, where they are the
    same; in sampled answers the first lets pass whatever is drawn without being the likeliest.
    preset: `paper` (lam 2, tau 0.1) or `code` (lam 5, tau 0.5).

    classifier `fitted`: a text classifier over the model's own tokens and integrated gradients of
    it (`TextClassifier`, `attributions`), learned from texts with labels. a = 2 sigmoid(z_1) - 1,
    z_1: the second class's logit; with margin the softmax is read. classifier `lexicon`: a = the
    mean score of the lexicon's words in the answer, beta = the score of the word that a token
    spells; no text is learned from.

    More than two classes k (fitted alone): each against the rest, all on the same logits:
    z' = z - lam sum_k (a_k - s_k) beta_k, a_k = 2 P(k | text) - 1, s_k = 2 P(k | picture) - 1, so
    s = 1 for the class that the picture is surely of; beta_k is the attributions of class k less
    the mean of the others'. A number as target is every class's.

    classes: negative first; null is the two most frequent labels. texts: CSV, JSONL or Parquet
    with the columns text and label, or a published file (`text_files`); null is the model's own
    sampled answers to `open_prompts` on the first `images` pictures, labelled as their pictures
    are. A fifth is held out to measure on.
    epochs, batch, lr, dropout, seed: training; null is 3 epochs at 2e-5 for texts of a file, as
    published (for some 10^5 texts), and 10 at 1e-3 for own answers, which are few. beta_agg:
    attributions of a token are summed, or averaged over its occurrences. beta_steps: of the
    integral. beta_texts: the first so many training texts, and held-out ones, are attributed.
    Source: Jung, Chai and Wang, ICLR 2026 (ALA), and its public code for the training's numbers.
    """

    name: str = "ala"
    artifact: str | None = None
    lam: float = 2.0
    tau: float = 0.1
    gate: str = "greedy"
    target: Any = PICTURE
    classifier: str = "fitted"
    lexicon: dict[str, float] | None = None
    preset: str | None = None
    magnitude: bool = False
    margin: bool = False
    classes: list[str] | None = None
    texts: str | None = None
    images: int = 256
    open_prompts: list[str] = field(default_factory=lambda: list(OPEN))
    answer_tokens: int = 64
    epochs: int | None = None
    batch: int = 16
    lr: float | None = None
    dropout: float = 0.1
    seed: int = 0
    beta_agg: str = "sum"
    beta_steps: int = 50
    beta_texts: int = 1000

    needs_attribute: ClassVar[bool] = True
    applied: ClassVar[frozenset[str]] = frozenset(
        {"lam", "tau", "gate", "target", "lexicon", "preset", "magnitude", "margin"}
    )

    def __post_init__(self) -> None:
        if self.preset is not None:
            for key, value in preset_values(self).items():
                object.__setattr__(self, key, value)
        check_numbers(self)
        check_choices(self)

    sources: ClassVar[frozenset[str]] = frozenset({"texts"})

    @property
    def reads_picture(self) -> bool:
        """Whether the target is what the picture shows."""
        return self.target == PICTURE

    @property
    def needs_artifact(self) -> bool:  # type: ignore[override]
        """A lexicon with a number as its target learns nothing."""
        return self.classifier == "fitted" or self.reads_picture

    @property
    def fitted(self) -> bool:  # type: ignore[override]
        return self.needs_artifact

    @property
    def attribute_given(self) -> bool:
        return not self.needs_artifact

    @property
    def pictures_needed(self) -> int:
        """Pictures that a fit uses at most."""
        return self.images

    def check(self, artifact: Artifact, facts: ModelFacts, where: str = "The artifact") -> None:
        """Raises: LmmsteerError for another model or tokenizer, or tensors that do not fit."""
        check_origin(artifact, facts, where)
        problem = problem_of_texts(artifact, facts) if self.classifier == "fitted" else None
        if problem is None and self.reads_picture:
            problem = problem_of_pictures(artifact)
        if problem is None and len({*self._class_counts(artifact)}) > 1:
            problem = "holds classifiers of texts and of pictures that tell other classes apart"
        if problem is not None:
            raise LmmsteerError(f"{where} {problem}.", mend(self.name))

    def _class_counts(self, artifact: Artifact) -> list[int]:
        """The classes that what it reads of an artifact can tell apart."""
        texts = 2 if self.classifier == "lexicon" else len(artifact.tensors["text.head.bias"])
        of_pictures = [len(artifact.tensors["picture.intercepts"])] if self.reads_picture else []
        return [texts, *of_pictures]

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        seen = PictureFeatures(lmm, context.pictures, context.features)
        return Edit(rules=(rule_of(self.adjustments(lmm, requests, context.artifact, seen)),))

    def adjustments(
        self,
        lmm: Lmm,
        requests: Sequence[Request],
        artifact: Artifact | None,
        seen: PictureFeatures,
    ) -> list[Adjustment]:
        """One for two classes; of more, one for each."""
        if artifact is None and self.needs_artifact:
            raise LmmsteerError(f"method={self.name} is not fitted yet.", "Run: lmmsteer fit")
        betas, readers = self._read(lmm, artifact)
        targets = self._targets(requests, artifact, seen, len(readers))  # [requests or 1, terms]
        return [
            Adjustment(beta, targets[:, at], reader, self.lam, self.tau, self.magnitude, self.gate)
            for at, (beta, reader) in enumerate(zip(betas, readers, strict=True))
        ]

    def _read(self, lmm: Lmm, artifact: Artifact | None) -> tuple[Tensor, Sequence[Reader]]:
        """betas [terms, vocab], and f_text of each term."""
        if self.classifier == "lexicon":
            width = lmm.vocab_size
            beta = lexicon_beta(lmm.tokenizer, self.lexicon or {}, width)
            return beta[None], [Lexicon.of(lmm.tokenizer, self.lexicon or {}, width)]
        assert artifact is not None
        weights = {
            name.removeprefix("text."): tensor
            for name, tensor in sorted(artifact.tensors.items())
            if name.startswith("text.")
        }
        classes = len(weights["head.bias"])
        labels = [1] if classes == 2 else range(classes)
        margin = self.margin or classes > 2
        return artifact.tensors["beta"], [TextClassifier(weights, at, margin) for at in labels]

    def _targets(
        self,
        requests: Sequence[Request],
        artifact: Artifact | None,
        seen: PictureFeatures,
        terms: int,
    ) -> Tensor:
        if not self.reads_picture:
            return torch.full((1, terms), float(self.target))
        assert artifact is not None
        features = seen.of([request.image_id for request in requests])
        found = picture_classifier(artifact).probabilities(features)
        return (2 * found[:, -terms:] - 1).float()

    def fit(self, lmm: Lmm, learning: Learning) -> Artifact:
        """What the method needs of texts, and of pictures where enough of them have a label."""
        if not self.needs_artifact:
            raise LmmsteerError(
                f"method={self.name} with a lexicon and a number as target has nothing to fit.",
                "Use it as it is: lmmsteer generate",
            )
        from_file = self.classifier == "fitted" and self.texts is not None
        rows = read_texts(str(self.texts), learning.attribute.name) if from_file else []
        shown = list(learning.pictures)[: self.images]
        of_pictures = [learning.labels[name] for name in shown if name in learning.labels]
        sources = [label for _, label in rows] if from_file else of_pictures
        classes = classes_of(sources, self.classes)
        if self.classifier == "lexicon" and len(classes) > 2:
            raise LmmsteerError("A lexicon's scores tell two classes apart.", "Name two classes")
        labels = labelled(learning, classes, self.images)
        tensors: dict[str, Tensor] = {}
        metadata = {
            **self.origin(lmm, learning.attribute),
            "tokenizer": lmm.tokenizer_digest or None,
            "classes": classes,
            "data_digest": data_digest(learning.pictures, labels),
            "pictures": len(labels),
        }
        if self.reads_picture or all(count >= 2 for count in _counts(labels, classes)):
            known, accuracy = learn_pictures(lmm, learning, labels, classes, self.seed)
            tensors |= picture_tensors(known)
            metadata["picture_accuracy"] = accuracy
        if self.classifier == "fitted":
            texts = (
                tokenized(lmm, rows, classes) if from_file else self._answers(lmm, learning, labels)
            )
            found, measured = self._learn_texts(lmm, learning, texts, classes)
            tensors, metadata = tensors | found, metadata | measured
        return Artifact(tensors, metadata)

    def _answers(self, lmm: Lmm, learning: Learning, labels: Mapping[str, int]) -> Texts:
        count = len(labels) * len(self.open_prompts)
        learning.say(f"asking {lmm.name} for {count} answers to learn from")
        return own_answers(lmm, learning, labels, self.open_prompts, self.answer_tokens)

    def _learn_texts(
        self, lmm: Lmm, learning: Learning, texts: Texts, classes: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata of the text classifier and of what it makes of each token."""
        own, held = (texts.some(at) for at in split(texts.labels, texts.groups, self.seed))
        if missing := [name for at, name in enumerate(classes) if at not in own.labels]:
            raise LmmsteerError(
                f"There is no text of {', '.join(missing)} to learn from.",
                "Give more labelled pictures (method.images) or texts (method.texts=FILE)",
            )
        width = lmm.vocab_size
        learning.say(f"training a classifier on {len(own)} texts")
        epochs, lr = OWN_ANSWERS if self.texts is None else PUBLISHED
        how = Training(self.epochs or epochs, self.batch, self.lr or lr, self.dropout, self.seed)
        weights = train_text_classifier(
            own, width, len(classes), how, learning.passes, learning.say
        )
        accuracy = text_accuracy(weights, held)
        usual = max(map(held.labels.count, held.labels), default=0) / max(len(held), 1)
        poor = accuracy is not None and accuracy <= usual
        hint = ", no more than the most frequent class: raise method.epochs or method.lr"
        learning.say(f"texts: {shown_accuracy(accuracy)}{hint if poor else ''}")
        first = [part.some(range(min(len(part), self.beta_texts))) for part in (own, held)]
        ids, labels = first[0].ids + first[1].ids, first[0].labels + first[1].labels
        learning.say(f"attributing {len(ids)} texts to their tokens")
        found = token_attributions(
            _on_card(lmm, weights),
            ids,
            labels,
            width,
            len(classes),
            aggregate=self.beta_agg,
            steps=self.beta_steps,
            passes=learning.passes,
            say=learning.say,
        )
        tensors = {f"text.{name}": weight for name, weight in weights.items()}
        measured = {
            "texts": len(texts),
            "texts_digest": texts.digest(),
            "text_accuracy": accuracy,
            "text_most_frequent": usual if len(held) else None,
        }
        return {**tensors, "beta": beta_of(found, self.beta_agg)}, measured


def rule_of(terms: Sequence[Adjustment]) -> Adjustment | CrossAdjustment:
    """The adjustments as one rule, on the same logits."""
    return terms[0] if len(terms) == 1 else CrossAdjustment.of(terms)


def _on_card(lmm: Lmm, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if lmm.device.kind != "cuda":
        return weights
    return {name: weight.to(lmm.device.torch_device()) for name, weight in weights.items()}


def _counts(labels: Mapping[str, int], classes: Sequence[str]) -> list[int]:
    return [list(labels.values()).count(at) for at in range(len(classes))]
