"""What an artifact of ALA holds, and whether it fits a model.

Tensors: `beta` [1, vocab] for two classes, else [classes, vocab]; `text.*`, a text classifier's
weights; `picture.coefficients` [classes, width], `picture.intercepts` [classes].
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.ala_pictures import PictureClassifier
from lmmsteer.methods.artifact import Artifact, ModelFacts
from lmmsteer.models.text_classifier import shapes


def check_origin(artifact: Artifact, facts: ModelFacts, where: str) -> None:
    """Raises: LmmsteerError for an artifact of another model or tokenizer, or one with a NaN."""
    made_for, tokenizer = (artifact.metadata.get(k) for k in ("model_digest", "tokenizer"))
    model = artifact.metadata.get("model", "?")
    problem = None
    if made_for and made_for != facts.digest:
        problem = (
            f"was fitted on another model ({model}, weights {made_for[:12]}), not on {facts.name}"
        )
    elif tokenizer and tokenizer != facts.tokenizer:
        problem = f"was fitted with another tokenizer than that of {facts.name}"
    else:
        for name, tensor in sorted(artifact.tensors.items()):
            if not torch.isfinite(tensor).all():
                problem = f"holds a tensor `{name}` that is not finite"
    if problem is not None:
        raise LmmsteerError(f"{where} {problem}.", mend(artifact.metadata.get("method", "ala")))


def mend(name: str) -> str:
    """What to do about an artifact that does not fit."""
    return (
        f"Fit it on this model (lmmsteer fit method={name}) or name another file: "
        "method.artifact=FILE"
    )


def problem_of_texts(artifact: Artifact, facts: ModelFacts) -> str | None:
    """What is wrong with an artifact's text classifier and its beta, if anything is."""
    tensors = artifact.tensors
    if "beta" not in tensors or "text.head.bias" not in tensors:
        return "has no text classifier (tensors `beta` and `text.*`)"
    beta, classes = tensors["beta"], len(tensors["text.head.bias"])
    width = beta.shape[-1] if facts.vocab_size is None else facts.vocab_size
    if classes < 2 or list(beta.shape) != [1 if classes == 2 else classes, width]:
        return f"holds a beta of shape {list(beta.shape)}, and {facts.name} has {width} tokens"
    if beta.abs().max() > 1:
        return "holds a beta that is not between -1 and 1"
    for name, shape in shapes(width, classes).items():
        found = tensors.get(f"text.{name}")
        if found is None or tuple(found.shape) != shape:
            got = "is missing" if found is None else f"has shape {list(found.shape)}"
            return f"has no whole text classifier: `text.{name}` {got}"
    return None


def problem_of_pictures(artifact: Artifact) -> str | None:
    """What is wrong with an artifact's picture classifier, if anything is."""
    names = ("picture.coefficients", "picture.intercepts")
    weights, offsets = (artifact.tensors.get(name) for name in names)
    if weights is None or offsets is None:
        return "has no picture classifier (tensors `picture.*`), which method.target=picture needs"
    if weights.ndim != 2 or len(weights) < 2 or tuple(offsets.shape) != (len(weights),):
        return (
            f"holds a picture classifier of shape {list(weights.shape)} and {list(offsets.shape)}"
        )
    return None


def picture_tensors(known: PictureClassifier) -> dict[str, Tensor]:
    """A picture classifier as an artifact holds it."""
    return {
        "picture.coefficients": known.coefficients,
        "picture.intercepts": known.intercepts,
    }


def picture_classifier(artifact: Artifact) -> PictureClassifier:
    """The picture classifier of an artifact that was checked."""
    if problem := problem_of_pictures(artifact):
        raise LmmsteerError(f"The artifact {problem}.", mend("ala"))
    tensors = artifact.tensors
    return PictureClassifier(tensors["picture.coefficients"], tensors["picture.intercepts"])
