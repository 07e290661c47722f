"""Features in which one leans by class, and what a fit may learn from them; no model is needed."""

from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from lmmsteer.methods import feature_fit
from lmmsteer.methods.base import Attribute, Learning
from lmmsteer.methods.clip_clip import ClipClip
from lmmsteer.methods.dear import Dear
from lmmsteer.methods.ggss import Ggss
from lmmsteer.methods.sfid import Sfid

D, TOKENS, PLANTED = 10, 3, 4
GENDER = Attribute("gender", "What is the gender of the person?", ("man", "woman"))
METHODS = [Sfid, ClipClip, Dear, Ggss]
QUICK = {
    Sfid: {"k": 3, "tau": 0.9},
    ClipClip: {"drop": 0.3},
    Dear: {"width": 6, "steps": 40, "rate": 0.02, "w_ce": 0.5, "w_ent": 0.5},
    Ggss: {},
}
MODEL = SimpleNamespace(
    name="planted",
    digest="beef",
    revision=None,
    d_model=D,
    n_layers=2,
    feature_levels=1,
    vocab_size=100,
    tokenizer_digest="0",
)


def world(classes=2, each=24, gap=2.0, seed=0):
    """Tokens of pictures in which one feature leans by class, and what a fit may learn from."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    labels = labels[draw.permutation(len(labels))]
    tokens = draw.normal(size=(len(labels), TOKENS, D)) + draw.normal(size=(len(labels), 1, D))
    tokens += 3 * draw.normal(size=D)
    tokens[:, :, PLANTED] += gap * labels[:, None]
    names = ["man", "woman", "nonbinary"]
    image_ids = [f"p{at}" for at in range(len(labels))]
    # A picture's only pixel says which one it is.
    pictures = {
        image_id: Image.new("RGB", (1, 1), (at, 0, 0)) for at, image_id in enumerate(image_ids)
    }
    said = {image_id: names[at] for image_id, at in zip(image_ids, labels, strict=True)}
    return tokens.astype(np.float32), learning(pictures, said)


def learning(pictures, labels):
    def never(*_, **__):
        raise AssertionError("A fit of features generates nothing.")

    return Learning(pictures, GENDER, never, never, labels)


def fitting(monkeypatch):
    """A function that fits a method on the tokens of a world."""

    def fitted(method, given):
        tokens, learned = given
        monkeypatch.setattr(
            feature_fit,
            "token_features",
            lambda _, pictures: [torch.from_numpy(tokens[p.getpixel((0, 0))[0]]) for p in pictures],
        )
        return method.fit(MODEL, learned)

    return fitted


def fitted_on(given):
    """Which pictures are not held out, the last quarter of every class."""
    _, learned = given
    labels = np.array([learned.labels[image_id] for image_id in learned.pictures])
    kept = np.ones(len(labels), dtype=bool)
    for label in set(labels):
        members = np.flatnonzero(labels == label)
        kept[members[len(members) - len(members) // 4 :]] = False
    return kept


def split(given):
    """Features and labels to fit on, and those held out."""
    tokens, learned = given
    x = tokens.astype(np.float64).mean(1)
    names = sorted(set(learned.labels.values()))
    y = np.array([names.index(learned.labels[image_id]) for image_id in learned.pictures])
    kept = fitted_on(given)
    return x[kept], y[kept], x[~kept], y[~kept]


def made(method_class, **parameters):
    return method_class(**{**QUICK[method_class], **parameters})
