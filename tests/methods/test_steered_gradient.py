"""Gradient directions against autograd in float64, written out on plain transformers models."""

import pytest
import torch
from transformers import (
    LlavaForConditionalGeneration,
    MllamaForConditionalGeneration,
)

from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods import gradient
from lmmsteer.methods.base import Attribute, Context
from lmmsteer.methods.gradient import Asked, gradient_directions, loss_of
from lmmsteer.methods.steered_gradient import SteeredGradient
from lmmsteer.methods.words import spellings
from lmmsteer.models.mllama import keep_intermediate_states
from lmmsteer.schema import Request, row_id
from tests.engine import oracle
from tests.tiny import photographs, tiny_llava
from tests.tiny_families import NAMES as ALL
from tests.tiny_families import tiny_family, tiny_family_lmm

QUESTION = "What is the gender of the person?"
GENDER = Attribute("gender", QUESTION, ("woman", "man", "she", "he"))
NAMES = ("astronaut", "cat")
CLASSES = {"llava": LlavaForConditionalGeneration, "mllama": MllamaForConditionalGeneration}


def pictures():
    return {name: photographs()[name] for name in NAMES}


def requests(prompts=("What is this?", "Describe the image."), seeds=(0, 1)):
    return [
        Request(row_id(n, "x", text, s), n, text[:4], text, s)
        for n in NAMES
        for text in prompts
        for s in seeds
    ]


def of_autograd(family, picture, targets, *, epsilon, loss="mse", position="last"):
    """a_l of every layer, by hooks on a plain model in float64. [n_layers, d_model]."""
    folder = tiny_llava() if family == "llava" else tiny_family(family)
    model = CLASSES[family].from_pretrained(folder).double().eval()
    if family == "mllama":
        keep_intermediate_states(model)
    inputs = tiny_family_lmm(family).inputs([QUESTION], [picture])
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    blocks, held, put = model.model.language_model.layers, [], {}

    def projected(_, __, out):
        if "u" not in put:
            put["u"] = out.detach().clone().requires_grad_()
        return put.get("moved", put["u"])

    def forward():
        held.clear()
        logits = model(**inputs, use_cache=False).logits[0, -1]
        return logits, torch.stack(held)

    def keep(_, __, out):
        hidden = (out[0] if isinstance(out, tuple) else out)[0]
        text = inputs["input_ids"][0] != tiny_family_lmm(family).image_token_id
        held.append(hidden[-1] if position == "last" else hidden[text].mean(0))

    model.model.multi_modal_projector.register_forward_hook(projected)
    for block in blocks:
        block.register_forward_hook(keep)
    logits, before = forward()
    chosen = logits[targets]
    if loss == "mse":
        goal = (chosen + logits.max()).detach()
        value = ((chosen - goal) ** 2).sum() / (2 * len(targets))
    elif loss == "kl":
        p = logits.softmax(-1)[targets]
        value = (1 / len(targets) * (1 / (len(targets) * p)).log()).sum()
    else:
        value = -logits.softmax(-1)[targets].log().sum()
    (g,) = torch.autograd.grad(value, put["u"])
    u = put["u"].detach()
    real = torch.ones_like(u, dtype=torch.bool)
    if family == "mllama":
        tiles = int(inputs["aspect_ratio_mask"].sum())
        real = real.view(-1, u.shape[-2], u.shape[-1])
        real[tiles:] = False
        real = real.view(u.shape)
    step = epsilon * u[real].std() * g.sign()
    put["moved"] = torch.where(real, u - step, u)
    with torch.no_grad():
        _, after = forward()
    difference = after.detach() - before.detach()
    return difference / difference.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("family", ["llava", *(name for name in ALL if name != "blip")])
def test_the_pass_that_is_differentiated_says_what_the_model_says(family):
    lmm, picture = tiny_family_lmm(family), photographs()["cat"]
    prepared = lmm.prepare(picture)
    ids = tuple(lmm.token_ids(QUESTION, prepared.shown))
    own = gradient._Pass(lmm, ids, [prepared], Asked(QUESTION, (1,)), None)
    with torch.no_grad():
        found = own.decoding.logits(lmm, own._decode(own.u)[:, -1])
        wanted = lmm.model(**lmm.inputs([QUESTION], [picture]), use_cache=False).logits[:, -1]
    assert torch.allclose(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("loss", ["mse", "kl", "column_ce"])
@pytest.mark.parametrize("family", ["llava", "mllama"])
def test_directions_are_those_of_autograd_in_float64(family, loss):
    lmm = tiny_family_lmm(family)
    targets = spellings(lmm.tokenizer, GENDER.words)
    asked = Asked(QUESTION, tuple(targets), loss=loss, epsilon=0.1)
    found = gradient_directions(lmm, [lmm.prepare(p) for p in pictures().values()], asked)
    for picture, mine in zip(pictures().values(), found, strict=True):
        wanted = of_autograd(family, picture, targets, epsilon=0.1, loss=loss)
        live = wanted.isfinite().all(-1)  # Mllama's first layers do not read the picture yet.
        assert live.any()
        assert (mine[~live] == 0).all()
        cosine = (mine[live].double() * wanted[live]).sum(-1)
        assert cosine.min() > 0.9999


def test_the_mean_over_text_positions_and_the_printed_sign():
    lmm = tiny_family_lmm("llava")
    targets = spellings(lmm.tokenizer, GENDER.words)
    context = Context(GENDER, pictures=pictures())
    method = SteeredGradient(position="prompt_mean", sign="printed")
    found, of = method.directions(lmm, requests(), context)
    assert of == [0, 0, 0, 0, 1, 1, 1, 1]
    wanted = of_autograd("llava", pictures()["cat"], targets, epsilon=-0.1, position="text")
    assert (found[1, :, 0].double() * wanted).sum(-1).min() > 0.9999


@pytest.mark.parametrize("family", ["llava", "mllama", "qwen2_5_vl", "paligemma", "clipcap"])
def test_one_layers_direction_is_that_of_all_layers_and_the_pass_ends_there(family):
    lmm = tiny_family_lmm(family)
    context = Context(GENDER, pictures=pictures())
    every, _ = SteeredGradient().directions(lmm, requests(), context)
    at = lmm.n_layers - 2
    ran = []
    hook = lmm.layers[-1].register_forward_hook(lambda *_: ran.append(1))
    single, _ = SteeredGradient(layer=at).directions(lmm, requests(), context)
    hook.remove()
    assert single.shape == (2, 1, 1, lmm.d_model)
    assert torch.allclose(single[:, 0], every[:, at], atol=1e-5)
    assert len(ran) == len({lmm.prepare(p).tokens for p in pictures().values()})


def test_batches_features_from_a_cache_and_one_by_one_give_the_same(monkeypatch):
    lmm = tiny_family_lmm("llava")
    context = Context(GENDER, pictures=pictures())
    together, _ = SteeredGradient().directions(lmm, requests(), context)
    engine = Shared()
    cached = Context(GENDER, pictures=pictures(), features=engine.features)
    assert torch.equal(SteeredGradient().directions(lmm, requests(), cached)[0], together)
    assert len(engine.cache) == 2
    alone = Context(GENDER, pictures=pictures(), alone=True)
    assert torch.allclose(
        SteeredGradient().directions(lmm, requests(), alone)[0], together, atol=1e-5
    )
    monkeypatch.setattr(gradient, "TOKENS", 1)
    assert torch.equal(
        SteeredGradient().directions(lmm, requests(), context)[0],
        SteeredGradient().directions(lmm, requests(), alone)[0],
    )


@pytest.mark.parametrize("engine", [lambda: Shared(5), lambda: Reference(5)])
@pytest.mark.parametrize("family", ["llava", "mllama"])
def test_answers_are_those_of_plain_transformers_with_each_layers_direction(family, engine):
    lmm = tiny_family_lmm(family)
    context = Context(GENDER, pictures=pictures())
    edit = SteeredGradient().edit(lmm, requests(), context)
    greedy = Sampling(temperature=0, max_new_tokens=8)
    found = list(engine().generate(lmm, requests(), pictures(), edit, greedy))
    for at, name in enumerate(NAMES):
        plain = oracle.family_oracle(
            family, tiny_llava() if family == "llava" else tiny_family(family)
        )
        handles = [
            handle
            for block, a in zip(plain.blocks(), edit.residual.directions[at], strict=True)
            for handle in oracle.hook_ablation(plain.model, a, [block])
        ]
        for request, response in zip(requests(), found, strict=True):
            if request.image_id == name:
                assert response.token_ids == plain.greedy(request.prompt, pictures()[name], 8)
        for handle in handles:
            handle.remove()
    assert not any(p.requires_grad or p.grad is not None for p in lmm.model.parameters())


def test_the_loss_scale_does_not_matter_and_the_targets_become_likelier():
    logits = torch.tensor([[1.0, 3.0, -2.0]], requires_grad=True)
    (g,) = torch.autograd.grad(loss_of(logits, torch.tensor([0, 2]), "mse"), logits)
    assert g.tolist() == [[-1.5, 0.0, -1.5]]  # (logit - M) / |T| = -3 / 2 at each target


def test_a_picture_without_a_gradient_words_or_a_question_is_refused():
    lmm = tiny_family_lmm("llava")
    context = Context(GENDER, pictures=pictures())
    with pytest.raises(LmmsteerError, match="no token that spells any of"):
        SteeredGradient(words=["zyzzyva"]).edit(lmm, requests(), context)
    with pytest.raises(LmmsteerError, match="has no question"):
        SteeredGradient().edit(
            lmm, requests(), Context(Attribute("x", "", ("man",)), pictures=pictures())
        )
    with pytest.raises(LmmsteerError, match="is no layer of"):
        SteeredGradient(layer=99).edit(lmm, requests(), context)
    dead = lmm.projector.register_forward_hook(lambda *_: None)
    dead.remove()
    for block in lmm.layers:  # Nothing of the picture reaches the last position.
        block.hook = block.self_attn.register_forward_hook(
            lambda _, __, out: (out[0] * 0, *out[1:])
        )
    try:
        with pytest.raises(LmmsteerError, match="has no gradient"):
            SteeredGradient().edit(lmm, requests(), context)
    finally:
        for block in lmm.layers:
            block.hook.remove()
            del block.hook


@pytest.mark.parametrize(
    "bad",
    [
        {"loss": "hinge"},
        {"sign": "x"},
        {"layer": "first"},
        {"epsilon": 0.0},
        {"alpha": 2.0},
        {"scope": ["x"]},
    ],
)
def test_parameters_out_of_range_are_refused(bad):
    with pytest.raises(LmmsteerError, match=next(iter(bad))):
        SteeredGradient(**bad)
