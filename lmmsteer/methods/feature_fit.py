"""What the methods of picture features share: features with labels to learn from, and the checks.

It knows the projected features and the data set's labels, not what a method makes of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from lmmsteer.engine.edit import Edit, FeatureRule
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.artifact import Artifact, ModelFacts
from lmmsteer.methods.base import Context, Learning, Method
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request

BATCH = 8
LEAST = 2  # Pictures of a class to learn from, beside those held out.


@dataclass(frozen=True, eq=False)
class Pooled:
    """Features of labelled pictures, each the mean over its tokens.

    features: [pictures, d_model] float32; labels: [pictures] int64, places in `classes`; held_out:
    [pictures] bool, not to be learnt from. digest: sha256 over ids, labels, sizes and RGB bytes.
    """

    image_ids: tuple[str, ...]
    features: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    held_out: Tensor
    digest: str

    @property
    def fit(self) -> tuple[Tensor, Tensor]:
        """Features and labels to learn from."""
        return self.features[~self.held_out], self.labels[~self.held_out]

    @property
    def validation(self) -> tuple[Tensor, Tensor]:
        """Features and labels of the pictures held out."""
        return self.features[self.held_out], self.labels[self.held_out]


@dataclass(frozen=True)
class FeatureMethod(Method):
    """A method that learns a change of the projected features from labelled pictures.

    artifact: null is the fitted one. alpha: the share of the change. images: labelled pictures to
    fit on, at most. validation: the share of each class that is held out, its last pictures.
    shapes: the artifact's tensors; `d` is the features' width, another name any size, the same
    throughout.
    """

    artifact: str | None = None
    alpha: float = 1.0
    images: int = 2000
    validation: float = 0.25

    needs_attribute: ClassVar[bool] = True
    needs_artifact: ClassVar[bool] = True
    fitted: ClassVar[bool] = True
    shapes: ClassVar[Mapping[str, tuple[str | int, ...]]] = {}
    alpha_max: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        check_range("alpha", self.alpha, 0, self.alpha_max)
        check_range("images", self.images, 2 * (LEAST + 1))
        if not 0 < self.validation < 1:
            raise LmmsteerError(
                f"method.validation={self.validation} is not a share of the pictures.",
                "Set method.validation between 0 and 1, for example method.validation=0.25",
            )

    @property
    def touches(self) -> frozenset[str]:
        return frozenset({"features"})

    @property
    def pictures_needed(self) -> int:
        """Pictures that a fit uses; it does with fewer."""
        return self.images

    def check(self, artifact: Artifact, facts: ModelFacts, where: str = "The artifact") -> None:
        """Refuse an artifact that is not this method's or not this model's.

        Raises: LmmsteerError for another model, a missing tensor, another width, values that are
        not finite.
        """
        if problem := self._problem(artifact, facts):
            raise LmmsteerError(
                f"{where} {problem}.",
                f"Fit it on this model (lmmsteer fit method={self.name}) or name another file: "
                "method.artifact=FILE",
            )

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        if context.artifact is None:
            raise LmmsteerError(
                f"method={self.name} was asked for without what it learns.",
                f"Run: lmmsteer fit method={self.name}",
            )
        if self.alpha == 0:
            return Edit()
        return Edit(features=self.rule(context.artifact.tensors, self.alpha))

    def fit(self, lmm: Lmm, learning: Learning) -> Artifact:
        """The change that an attribute's labels teach; its metadata says how well they are read.

        accuracy, accuracy_edited: of a linear probe for the label on held-out pictures' features,
        as they are and after the whole change (each probe fitted on its own kind). majority: of
        always saying the commonest class.
        """
        self.suit_fit(facts_of(lmm))
        pooled = pool(lmm, learning, self.images, self.validation)
        tensors, found = self.learn(lmm, learning, pooled)
        rule = self.rule(tensors, 1.0)
        edited = pooled.features if rule is None else rule.apply(pooled.features)
        (_, y), (_, held_y) = pooled.fit, pooled.validation
        metadata = {
            **self.origin(lmm, learning.attribute),
            "classes": list(pooled.classes),
            "counts": _counts(y, pooled.classes),
            "held_out": _counts(held_y, pooled.classes),
            "accuracy": probe_accuracy(pooled.features, pooled),
            "accuracy_edited": probe_accuracy(edited, pooled),
            "majority": float(held_y.bincount().max() / len(held_y)),
            "data_digest": pooled.digest,
            "d_model": lmm.d_model,
            **found,
        }
        return Artifact(tensors, metadata)

    def learn(
        self, lmm: Lmm, learning: Learning, pooled: Pooled
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The artifact's tensors, and what its metadata says besides."""
        raise NotImplementedError

    def rule(self, tensors: Mapping[str, Tensor], alpha: float) -> FeatureRule | None:
        """The change that an artifact stands for; None where it changes nothing."""
        raise NotImplementedError

    def _problem(self, artifact: Artifact, facts: ModelFacts) -> str | None:
        made_for = artifact.metadata.get("model_digest")
        if made_for and made_for != facts.digest:
            theirs = f"{artifact.metadata.get('model', '?')}, weights {made_for[:12]}"
            return f"was fitted on another model ({theirs}), not on {facts.name}"
        sizes: dict[str, int] = {"d": facts.feature_width}
        for name, letters in self.shapes.items():
            tensor = artifact.tensors.get(name)
            if tensor is None:
                return f"has no tensor `{name}`, which method={self.name} needs"
            if not _fits(tensor, letters, sizes):
                wanted = ", ".join(str(sizes.get(str(letter), letter)) for letter in letters)
                shape = list(tensor.shape)
                return f"holds `{name}` of shape {shape}, and {facts.name} needs [{wanted}]"
            if not torch.isfinite(tensor).all():
                return f"holds values of `{name}` that are not finite"
        return None


def facts_of(lmm: Lmm) -> ModelFacts:
    """What `suit_fit` asks about, of a model that is loaded."""
    vocab, tokenizer = lmm.vocab_size, lmm.tokenizer_digest
    return ModelFacts(
        lmm.name,
        lmm.digest,
        lmm.d_model,
        lmm.n_layers,
        vocab,
        tokenizer,
        lmm.feature_levels,
    )


def check_range(key: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raises: LmmsteerError for a parameter outside [low, high], or one that is not finite."""
    if not low <= value <= high or value == float("inf"):
        bounds = f"between {low:g} and {high:g}" if high < float("inf") else f"to {low:g} or more"
        raise LmmsteerError(
            f"method.{key}={value} is out of its range.", f"Set method.{key} {bounds}"
        )


def pool(lmm: Lmm, learning: Learning, images: int, validation: float) -> Pooled:
    """Mean projected features of the first `images` labelled pictures.

    Raises: LmmsteerError where no picture has a label, all have the same one, a class has too few
    pictures, or a picture's features are not finite.
    """
    image_ids = _labelled(learning, images)
    said = [learning.labels[image_id] for image_id in image_ids]
    classes = tuple(sorted(set(said)))
    labels = torch.tensor([classes.index(label) for label in said])
    held_out = _held_out(labels, classes, validation)

    def means(some: Sequence[str]) -> Tensor:
        seen = shown_tokens(lmm, learning, some)
        return torch.stack([tokens.mean(0).cpu() for tokens in seen])

    def there(count: int) -> None:
        learning.say(f"picture features: {count} of {len(image_ids)}")

    features = learning.passes.rows("features", image_ids, means, there=there)
    for image_id, row in zip(image_ids, features, strict=True):
        if not torch.isfinite(row).all():
            raise LmmsteerError(
                f"The features of {image_id} are not finite, so nothing can be learnt from them.",
                "Load the model in a wider dtype (model.dtype=float32), or leave the picture out",
            )
    digest = _digest(learning, image_ids)
    return Pooled(tuple(image_ids), features, labels, classes, held_out, digest)


def shown_tokens(lmm: Lmm, learning: Learning, image_ids: Sequence[str]) -> Iterator[Tensor]:
    """The projected features of each picture, [tokens, d_model] float32, where the model is."""
    for start in range(0, len(image_ids), BATCH):
        some = image_ids[start : start + BATCH]
        yield from token_features(lmm, [learning.pictures[image_id] for image_id in some])


@torch.no_grad()
def token_features(lmm: Lmm, pictures: Sequence[Image.Image]) -> list[Tensor]:
    """What the projector says of each picture, [tokens, d_model] float32, padding left out.

    Raises: LmmsteerError for a family without a projector.
    """
    lmm.projector  # noqa: B018 - it is asked for so that it may refuse
    decoding = DECODING[lmm.family.name]
    prepared = [lmm.prepare(picture) for picture in pictures]
    ends = [decoding.valid(lmm, picture) or None for picture in prepared]
    found = decoding.features(lmm, prepared)
    return [tokens[:end].float() for tokens, end in zip(found, ends, strict=True)]


def probe_accuracy(features: Tensor, pooled: Pooled) -> float:
    """How often a linear probe reads the label of held-out pictures' features.

    Ridge regression of one column per class on standardised features, penalty 1, in float64.
    features: [pictures, d_model], rows as in `pooled`.
    """
    x = standardised(features.double(), ~pooled.held_out)
    fit, held = x[~pooled.held_out], x[pooled.held_out]
    (_, labels), (_, held_labels) = pooled.fit, pooled.validation
    targets = torch.nn.functional.one_hot(labels, len(pooled.classes)).double()
    mean = targets.mean(0)
    gram = fit @ fit.T + torch.eye(len(fit), dtype=fit.dtype)
    scores = held @ (fit.T @ torch.linalg.solve(gram, targets - mean)) + mean
    return float((scores.argmax(-1) == held_labels).double().mean())


def standardised(features: Tensor, by: Tensor) -> Tensor:
    """(f - mean) / standard deviation of each feature, over the rows `by`; constant ones are 0."""
    centre, spread = centre_and_spread(features[by])
    return (features - centre) / spread


def centre_and_spread(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature; 1 where it does not vary. [d_model] each."""
    spread = features.std(0, correction=0)
    return features.mean(0), torch.where(spread > 0, spread, torch.ones_like(spread))


def _labelled(learning: Learning, images: int) -> list[str]:
    known = [image_id for image_id in learning.pictures if image_id in learning.labels][:images]
    name = learning.attribute.name
    if not known:
        raise LmmsteerError(
            f"None of the {len(learning.pictures)} readable pictures has a label for {name}.",
            f"Name a data set with the label {name}, for example a column `{name}` in "
            "metadata.csv of dataset=folder",
        )
    if len({learning.labels[image_id] for image_id in known}) == 1:
        raise LmmsteerError(
            f"All {len(known)} labelled pictures are of one class, {learning.labels[known[0]]}, so "
            "nothing tells classes apart.",
            f"Name a data set with more than one class of {name}, or raise method.images",
        )
    return known


def _held_out(labels: Tensor, classes: Sequence[str], share: float) -> Tensor:
    """The last pictures of every class. [pictures] bool."""
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for at, name in enumerate(classes):
        members = (labels == at).nonzero().squeeze(-1)
        count = max(1, int(share * len(members)))
        if len(members) - count < LEAST:
            raise LmmsteerError(
                f"{len(members)} labelled pictures of class {name} are too few to fit on: {count} "
                f"of them are held out, and at least {LEAST} must be left.",
                "Name a larger data set, raise method.images, or lower method.validation",
            )
        held_out[members[-count:]] = True
    return held_out


def _digest(learning: Learning, image_ids: Sequence[str]) -> str:
    """sha256 over the pictures as they were shown: ids, labels, sizes, RGB bytes."""
    found = hashlib.sha256()
    for image_id in image_ids:
        picture, label = learning.pictures[image_id], learning.labels[image_id]
        found.update(f"{image_id}\0{label}\0{picture.width}x{picture.height}\0".encode())
        found.update(picture.tobytes())
    return found.hexdigest()


def _counts(labels: Tensor, classes: Sequence[str]) -> dict[str, int]:
    found = Counter(labels.tolist())
    return {name: found[at] for at, name in enumerate(classes)}


def _fits(tensor: Tensor, letters: Sequence[str | int], sizes: dict[str, int]) -> bool:
    """Whether a tensor has the sizes that its letters stand for; learns those that are new."""
    return tensor.ndim == len(letters) and all(
        size == (letter if isinstance(letter, int) else sizes.setdefault(letter, size))
        for size, letter in zip(tensor.shape, letters, strict=True)
    )
