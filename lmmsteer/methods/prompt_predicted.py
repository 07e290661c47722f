"""ALA's baseline by words: the prompt says what a classifier takes the picture to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lmmsteer.engine.edit import Edit
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.ala_artifact import (
    check_origin,
    mend,
    picture_classifier,
    picture_tensors,
    problem_of_pictures,
)
from lmmsteer.methods.ala_pictures import PictureFeatures, data_digest, labelled, learn_pictures
from lmmsteer.methods.ala_texts import check_classes, classes_of
from lmmsteer.methods.artifact import Artifact, ModelFacts
from lmmsteer.methods.base import Context, Learning, Method
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request

TEMPLATE = "The {attribute} of the person in the image is {predicted}. {prompt}"


@dataclass(frozen=True)
class PromptPredicted(Method):
    """Puts the class that a picture is predicted to be of before the prompt.

    template: {attribute} is the attribute's name, {predicted} the class of the highest
    P(class | picture), {prompt} the prompt. The classifier is a logistic regression on the model's
    own picture features, mean over tokens, as for `Ala`.

    classes: to tell apart; null is the two most frequent labels. images: pictures to learn from at
    most; a fifth of them is held out to measure on. seed: of that choice.
    Source: Jung, Chai and Wang, ICLR 2026 (ALA), its prompt baseline.
    """

    name: str = "prompt_predicted"
    artifact: str | None = None
    template: str = TEMPLATE
    classes: list[str] | None = None
    images: int = 256
    seed: int = 0

    needs_attribute: ClassVar[bool] = True
    needs_artifact: ClassVar[bool] = True
    fitted: ClassVar[bool] = True
    applied: ClassVar[frozenset[str]] = frozenset({"template"})

    def __post_init__(self) -> None:
        check_classes(self.classes)
        if "{prompt}" not in self.template or "{predicted}" not in self.template:
            raise LmmsteerError(
                f"method.template={self.template!r} has no place for the prompt or the class.",
                "Put {prompt} and {predicted} into it",
            )
        if self.images < 1:
            raise LmmsteerError(f"method.images={self.images} are none.", "Give 1 or more")

    @property
    def pictures_needed(self) -> int:
        """Pictures that a fit uses at most."""
        return self.images

    def check(self, artifact: Artifact, facts: ModelFacts, where: str = "The artifact") -> None:
        """Raises: LmmsteerError for another model, or tensors or classes that are missing."""
        check_origin(artifact, facts, where)
        problem = problem_of_pictures(artifact)
        known = len(artifact.metadata.get("classes") or ())
        if problem is None and known != len(artifact.tensors["picture.intercepts"]):
            problem = "does not name the classes of its picture classifier"
        if problem is not None:
            raise LmmsteerError(f"{where} {problem}.", mend(self.name))

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        if context.artifact is None or context.attribute is None:
            raise LmmsteerError(f"method={self.name} is not fitted yet.", "Run: lmmsteer fit")
        seen = PictureFeatures(lmm, context.pictures, context.features)
        features = seen.of([request.image_id for request in requests])
        found = picture_classifier(context.artifact).probabilities(features).argmax(-1).tolist()
        classes = context.artifact.metadata["classes"]
        attribute = context.attribute.name.replace("_", " ")
        return Edit(
            prompts=tuple(
                self._filled(attribute, classes[at], request.prompt)
                for at, request in zip(found, requests, strict=True)
            )
        )

    def _filled(self, attribute: str, predicted: str, prompt: str) -> str:
        # The prompt last: what stands in braces there is the user's own.
        text = self.template.replace("{attribute}", attribute).replace("{predicted}", predicted)
        return text.replace("{prompt}", prompt)

    def fit(self, lmm: Lmm, learning: Learning) -> Artifact:
        """A picture classifier from the labelled ones of the first pictures."""
        shown = list(learning.pictures)[: self.images]
        labels = [learning.labels[name] for name in shown if name in learning.labels]
        classes = classes_of(labels, self.classes)
        known = labelled(learning, classes, self.images)
        found, accuracy = learn_pictures(lmm, learning, known, classes, self.seed)
        metadata = {
            **self.origin(lmm, learning.attribute),
            "classes": classes,
            "pictures": len(known),
            "picture_accuracy": accuracy,
            "data_digest": data_digest(learning.pictures, known),
        }
        return Artifact(picture_tensors(found), metadata)
