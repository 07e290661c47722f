"""A classifier of pictures by the model's own picture features, and the pictures it learns from."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from PIL import Image
from torch import Tensor

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.ala_texts import split
from lmmsteer.methods.base import Features, Learning
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm


@dataclass(frozen=True, eq=False)
class PictureClassifier:
    """P(class | picture) = softmax(W f + b), f: the model's own picture features.

    coefficients W: [classes, width]; intercepts b: [classes]; the first row is zero for two classes
    (logistic regression). f: `PictureFeatures`.
    """

    coefficients: Tensor
    intercepts: Tensor

    def probabilities(self, features: Tensor) -> Tensor:
        """features: [pictures, width] -> [pictures, classes] float64.

        Raises: LmmsteerError for features of another width.
        """
        width = self.coefficients.shape[1]
        if features.shape[1] != width:
            raise LmmsteerError(
                f"The picture classifier reads {width} features, and the model has "
                f"{features.shape[1]}.",
                "Fit it on this model: lmmsteer fit",
            )
        scores = features.double() @ self.coefficients.double().T + self.intercepts.double()
        return scores.softmax(-1)


class PictureFeatures:
    """What a model sees of pictures, by image id; every picture is looked at once.

    The mean over its tokens of a picture as the decoder reads it, padding left out. features: the
    engine's own, from its cache; without, one picture at a time, so that its neighbours cannot
    change its last bits.
    """

    def __init__(
        self, lmm: Lmm, pictures: Mapping[str, Image.Image], features: Features | None = None
    ) -> None:
        self.lmm, self.pictures, self.features = lmm, pictures, features
        self._known: dict[str, Tensor] = {}

    def of(self, image_ids: Sequence[str]) -> Tensor:
        """[images, width] float32, on the CPU."""
        new = [name for name in dict.fromkeys(image_ids) if name not in self._known]
        for some in [new] if self.features is not None else [[name] for name in new]:
            self._known.update(zip(some, self._seen(some), strict=True))
        return torch.stack([self._known[image_id] for image_id in image_ids])

    @torch.no_grad()
    def _seen(self, image_ids: Sequence[str]) -> list[Tensor]:
        if not image_ids:
            return []
        decoding = DECODING[self.lmm.family.name]
        prepared = [self.lmm.prepare(self.pictures[image_id]) for image_id in image_ids]
        found = (self.features or decoding.features)(self.lmm, prepared)
        ends = [decoding.valid(self.lmm, picture) or None for picture in prepared]
        return [x[:end].float().mean(0).cpu() for x, end in zip(found, ends, strict=True)]


def fit_picture_classifier(
    features: Tensor, labels: Sequence[int], classes: int
) -> PictureClassifier:
    """Logistic regression on standardized features (L2, C = 1; several classes: multinomial).

    features: [pictures, width]. Source: ALA's public code: scikit-learn, lbfgs, 1000 iterations;
    the features' scale is folded into the coefficients.
    """
    from sklearn.linear_model import LogisticRegression  # Slow to import; only a fit needs it.

    x = features.double()
    mean, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    model = LogisticRegression(max_iter=1000).fit(((x - mean) / scale).numpy(), list(labels))
    weights = torch.as_tensor(model.coef_, dtype=torch.float64) / scale
    offsets = torch.as_tensor(model.intercept_, dtype=torch.float64) - weights @ mean
    if classes == 2:
        weights = torch.cat([torch.zeros_like(weights), weights])
        offsets = torch.cat([torch.zeros_like(offsets), offsets])
    return PictureClassifier(weights.float(), offsets.float())


def learn_pictures(
    lmm: Lmm, learning: Learning, labels: Mapping[str, int], classes: Sequence[str], seed: int
) -> tuple[PictureClassifier, float | None]:
    """Fit a picture classifier on the labelled pictures; a fifth is held out.

    Result: the classifier, and the share of the held-out ones that it tells right (None: of none).
    Raises: LmmsteerError for a class with fewer than two pictures.
    """
    counts = Counter(labels.values())
    if few := [name for at, name in enumerate(classes) if counts[at] < 2]:
        raise LmmsteerError(
            f"Fewer than two pictures are labelled {' or '.join(few)}, so pictures cannot be "
            f"classified by {learning.attribute.name}.",
            "Name a data set whose pictures are labelled, or another target: method.target=0.0",
        )
    learning.say(f"looking at {len(labels)} pictures")
    seen = PictureFeatures(lmm, learning.pictures)
    features = learning.passes.rows("pictures", list(labels), seen.of)
    targets = torch.tensor(list(labels.values()))
    own, held = split(targets.tolist(), list(labels), seed)
    found = fit_picture_classifier(features[own], targets[own].tolist(), len(classes))
    accuracy = None
    if held:
        right = found.probabilities(features[held]).argmax(-1) == targets[held]
        accuracy = right.double().mean().item()
    learning.say(f"pictures by {learning.attribute.name}: {shown_accuracy(accuracy)}")
    return found, accuracy


def labelled(learning: Learning, classes: Sequence[str], most: int) -> dict[str, int]:
    """The class of each of the first pictures that have one."""
    known = [
        (image_id, classes.index(learning.labels[image_id]))
        for image_id in islice(learning.pictures, most)
        if learning.labels.get(image_id) in classes
    ]
    return dict(known)


def shown_accuracy(accuracy: float | None) -> str:
    return "none were held out" if accuracy is None else f"{accuracy:.0%} of those held out right"


def data_digest(pictures: Mapping[str, Image.Image], labels: Mapping[str, int]) -> str:
    """sha256 over the labelled pictures as they were shown: ids, classes, sizes, RGB bytes."""
    found = hashlib.sha256()
    for image_id, label in labels.items():
        picture = pictures[image_id]
        found.update(f"{image_id}\0{label}\0{picture.width}x{picture.height}\0".encode())
        found.update(picture.tobytes())
    return found.hexdigest()
