"""Every method on every family: it answers, or it is refused before anything is loaded."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet.steering import check_family
from lmmsteer.methods import METHODS
from lmmsteer.methods.artifact import Artifact
from lmmsteer.methods.base import Attribute, Context, Learning
from lmmsteer.methods.random_direction import random_directions
from lmmsteer.models.families import FAMILIES
from lmmsteer.schema import Request, row_id
from tests.engine.bits import bits_of
from tests.tiny_families import SAVE, tiny_family_lmm

GENDER = Attribute("gender", "What is the gender of the person?", ("woman", "man", "she", "he"))
SETTINGS = {
    "ablation": {"artifact": "by hand"},
    "random_direction": {"k": 2, "scope": ["prompt", "generated"]},
    "steered_dataset": {"images": 8, "held_out": 2, "kl_max": 1e9},
    "ala": {"images": 12, "answer_tokens": 4, "epochs": 1, "beta_steps": 2},
    "ala_cross": {"terms": [{"target": 0.0}, {"target": 1.0}]},
    "sfid": {"k": 4, "tau": 1.0},
    "compose": {"methods": ["blocklist", "prompt"]},
}
REFUSED = {
    "blip": {
        "ablation": "no pre-norm residual",
        "random_direction": "no pre-norm residual",
        "steered_dataset": "no pre-norm residual",
        "steered_gradient": "no pre-norm residual",
        **dict.fromkeys(("sfid", "clip_clip", "dear", "ggss"), "no projector"),
        "vdd": "say nothing without a picture",
    },
    "clipcap": {"vdd": "say nothing without a picture"},
    "mllama": {"random_direction": "no tokens of its own"},
}


@cache
def pictures():
    drawn = np.random.default_rng(0)
    sides = (drawn.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(12))
    return {f"p{at}": Image.fromarray(array) for at, array in enumerate(sides)}


REQUESTS = [
    Request(row_id(name, "x", text, seed), name, text[:4], text, seed)
    for name in ("p0", "p1")
    for text in ("What is this?", "Describe the image.")
    for seed in (0, 1)
]


def hooks_of(model):
    """Ours alone: transformers places some of its own when a model is first called."""
    return [
        hook
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if "lmmsteer" in getattr(hook, "__module__", "")
    ]


def method_of(name):
    return METHODS[name](**SETTINGS.get(name, {}))


@cache
def learned(name, family):
    method, lmm = method_of(name), tiny_family_lmm(family)
    if method.name == "ablation":
        return Artifact({"directions": random_directions(3, 1, lmm.d_model)})
    if not method.fitted:
        return None
    engine = Shared(8)

    def answer(lmm, requests, pictures, edit, max_new_tokens, temperature=0.0):
        greedy = Sampling(temperature=0, max_new_tokens=max_new_tokens)
        return engine.generate(lmm, requests, pictures, edit, greedy)

    labels = {name: ("man", "woman")[at % 2] for at, name in enumerate(pictures())}
    return method.fit(lmm, Learning(pictures(), GENDER, engine.edited, answer, labels))


def context_of(method, lmm):
    return Context(GENDER, learned(method.name, lmm.family.name), pictures=pictures())


def part_of(given):
    if isinstance(given, str):
        return method_of(given)
    return METHODS[given["name"]](**SETTINGS["ala"])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", [name for name in FAMILIES if name in SAVE])
def test_a_method_answers_or_is_refused_before_anything_is_loaded(family, name):
    method = method_of(name)
    if refusal := REFUSED.get(family, {}).get(name):
        with pytest.raises(LmmsteerError, match=refusal):
            check_family(method, FAMILIES[family], family)
        return
    check_family(method, FAMILIES[family], family)
    lmm = tiny_family_lmm(family)
    before = {key: tensor.clone() for key, tensor in lmm.model.state_dict().items()}
    hooks = hooks_of(lmm.model)
    context = context_of(method, lmm)
    if method.members:
        parts = tuple((part, context_of(part, lmm)) for part in map(part_of, method.members))
        context = Context(GENDER, pictures=pictures(), parts=parts)
    edit = method.edit(lmm, REQUESTS, context)
    engine = Shared(5)
    found = list(engine.generate(lmm, REQUESTS, pictures(), edit, Sampling(max_new_tokens=6)))
    assert [r.error for r in found] == [None] * len(REQUESTS)
    # Afterwards the model is what it was: weights, hooks, the forwards of its modules.
    after = lmm.model.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    assert hooks_of(lmm.model) == hooks
    assert not any("forward" in vars(module) for module in lmm.model.modules())
    few = REQUESTS[:4]  # No companion matters.
    alone = Shared(5).generate(
        lmm, few, pictures(), method.edit(lmm, few, context), Sampling(max_new_tokens=6)
    )
    assert [r.token_ids for r in alone] == [r.token_ids for r in found[:4]]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["llava", "mllama"])
def test_in_strict_mode_no_bit_hangs_on_the_pictures_of_the_shard(family, name, monkeypatch):
    if REFUSED.get(family, {}).get(name):
        return
    method, lmm, engine = method_of(name), tiny_family_lmm(family), Shared(16, strict=True)

    def strictly(method, parts=()):
        return replace(context_of(method, lmm), parts=parts, features=engine.features, alone=True)

    parts = tuple((part, strictly(part)) for part in map(part_of, method.members or ()))
    context = strictly(method, parts)

    def heard(requests):
        edit = method.edit(lmm, requests, context)
        how = Sampling(max_new_tokens=6)
        return bits_of(monkeypatch, engine, requests, pictures(), lmm, edit, how)

    whole = heard(REQUESTS)
    for part in (REQUESTS[:4], REQUESTS[4:], REQUESTS[:1], REQUESTS[::-1]):
        for row, found in heard(part).items():
            assert found == whole[row]
