"""Directions that act only where a condition fires."""

import math
from dataclasses import replace

import pytest
import torch

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods import METHODS
from lmmsteer.methods.applying import Applying, similarity
from lmmsteer.methods.base import Context
from tests.engine import oracle
from tests.methods.directions_world import (
    PICTURES,
    PROMPTS,
    REQUESTS,
    artifact,
)
from tests.tiny import tiny_llava, tiny_lmm


def test_similarity_by_hand():
    h, c = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0])
    assert similarity(h, c) == pytest.approx(3 / 5)
    h, c = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0])
    x, y = math.tanh(0.2), math.tanh(0.4)  # P h = c (c . h) / 5 = (0.2, 0.4).
    assert similarity(h, c) == pytest.approx(x / math.hypot(x, y))
    assert similarity(h, -3 * c) == pytest.approx(similarity(h, c))
    assert similarity(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])) == 0
    assert similarity(h, torch.zeros(2)) == 0


@torch.no_grad()
@pytest.mark.parametrize("position", ["prompt_last", "prompt_mean"])
def test_a_gate_fires_for_rows_whose_unsteered_prompt_shows_the_condition(position):
    lmm = tiny_lmm()
    fitted = artifact(layer=0, n_layers=2)
    c = fitted.tensors["candidates"][0]
    model, processor = oracle.plain(tiny_llava())
    sims = []
    for request in REQUESTS:
        batch = oracle.inputs(processor, request.prompt, PICTURES[request.image_id])
        h = model(**batch, output_hidden_states=True).hidden_states[1][0]  # Block 0's output.
        text = batch["input_ids"][0] != lmm.image_token_id
        h = h[-1] if position == "prompt_last" else h[text].mean(0)
        inside = torch.tanh(torch.outer(c, c) @ h / (c @ c))
        sims.append(float(torch.cosine_similarity(h, inside, dim=0)))
    distinct = sorted(set(sims))
    threshold = (distinct[1] + distinct[2]) / 2
    context = Context(artifact=fitted, pictures=PICTURES)
    gate = {"threshold": threshold, "position": position}
    passes = []
    counting = lmm.layers[0].register_forward_hook(lambda *_: passes.append(1))
    edit = METHODS["ablation"](gate=gate).edit(lmm, REQUESTS, context).residual
    counting.remove()
    assert len(passes) == len(PICTURES) * len(PROMPTS)  # Seeds share one.
    assert edit.of == tuple(int(sim > threshold) for sim in sims)
    assert 0 < sum(edit.of) < len(REQUESTS)
    assert not edit.sets[0].any()
    assert torch.equal(edit.sets[1, 0], fitted.tensors["directions"])
    below = METHODS["ablation"](gate={**gate, "fires": "below"})
    assert below.edit(lmm, REQUESTS, context).residual.of == tuple(1 - on for on in edit.of)
    for request, on in zip(REQUESTS, edit.of, strict=True):
        alone = METHODS["ablation"](gate=gate).edit(lmm, [request], context).residual
        assert alone.of == (on,)


def test_a_gated_addition_or_affine_ablation_does_nothing_to_the_other_rows():
    lmm = tiny_lmm()
    context = Context(artifact=artifact(layer=0, n_layers=2), pictures=PICTURES)
    for mode in ("add", "affine"):
        gate = {"threshold": 2.0}  # No cosine is above it.
        method = METHODS["steered_dataset"](mode=mode, gate=gate)
        found = method.edit(lmm, REQUESTS, context).residual
        assert found.of == (0,) * len(REQUESTS)
        assert not found.sets[0].any()
        assert not found.shifts[0].any()
        assert found.shifts[1].any()
        assert found.sets.shape[:2] == found.shifts.shape[:2] == (2, 2)


def test_a_gate_lets_a_prompt_that_cannot_be_shown_pass():
    lmm = tiny_lmm()
    context = Context(artifact=artifact(layer=0, n_layers=2), pictures=PICTURES)
    refused = replace(REQUESTS[0], prompt="What is <image>?")
    method = METHODS["ablation"](gate={"threshold": -2.0})
    assert method.edit(lmm, [refused, REQUESTS[1]], context).residual.of == (0, 1)


@pytest.mark.parametrize(
    ("gate", "problem"),
    [
        ({}, "has no threshold"),
        ({"threshold": None}, "has no threshold"),
        ({"threshold": 0.1, "level": 1}, "has no key level"),
        ({"threshold": 0.1, "fires": "beside"}, "fires=beside is not known"),
        ({"threshold": 0.1, "position": "response_mean"}, "position=response_mean is not known"),
    ],
)
def test_a_gate_that_cannot_be_is_refused(gate, problem):
    with pytest.raises(LmmsteerError, match=rf"method\.gate.*{problem}"):
        Applying(gate=gate)
