"""Strict mode: a row's bits depend on weights, versions and slots alone."""

import random
from dataclasses import replace
from functools import cache

import pytest
import torch
from PIL import ImageOps

from lmmsteer.engine import attention, works
from lmmsteer.engine.edit import Edit, ResidualEdit
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.selftest import check_strict
from lmmsteer.engine.shape import shape_of
from lmmsteer.engine.shared import Shared
from lmmsteer.errors import RunFailed
from lmmsteer.models.lmm import load
from lmmsteer.schema import Request, row_id
from tests.engine.bits import bits_of
from tests.engine.test_hooks import orthonormal
from tests.tiny import photographs
from tests.tiny_families import NAMES, tiny_family, tiny_family_lmm

ALL = ["llava", *(name for name in NAMES if name != "paligemma2")]
PROMPTS = (
    "Describe the image in as much detail as possible.",
    "What?",
    "What is the age of the person in the photo? Pretend you are here.",
    "Is it day?",
)
SAMPLING = Sampling(max_new_tokens=5)


@cache
def pictures():
    """Of three sizes, so that prefixes are of several lengths where a family has that."""
    cat, rocket = (photographs()[name] for name in ("cat", "rocket"))
    return {
        "cat": cat,
        "rocket": rocket,
        "small": rocket.resize((300, 300)),
        "flat": ImageOps.flip(cat).resize((900, 300)),
    }


def rows():
    return [
        Request(row_id(image_id, None, prompt, seed), image_id, prompt[:4], prompt, seed)
        for image_id in pictures()
        for prompt in PROMPTS
        for seed in range(4)
    ]


def bits(monkeypatch, engine, requests, lmm, edit=Edit()):  # noqa: B008
    return bits_of(monkeypatch, engine, requests, pictures(), lmm, edit, SAMPLING)


@pytest.mark.parametrize("name", ["llava", "mllama", "qwen2_5_vl", "paligemma", "blip"])
def test_logits_are_equal_bit_by_bit_in_any_order_shard_slot_and_company(name, monkeypatch):
    lmm, engine = tiny_family_lmm(name), Shared(16, strict=True)
    requests = rows()
    whole = bits(monkeypatch, engine, requests, lmm)
    assert len(whole) == 64
    assert len({tuple(tokens) for tokens, _ in whole.values()}) > 10
    shuffled = random.Random(1).sample(requests, 64)
    shards = [shuffled, shuffled[:7], shuffled[40:47], *([r] for r in shuffled[:3])]
    probe, others = requests[21], requests[32:47]
    shards += [[*others[:at], probe, *others[at:]] for at in (0, 7, 15)]
    for shard in shards:
        for asked, heard in bits(monkeypatch, engine, shard, lmm).items():
            assert heard == whole[asked]


@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_steered_logits_are_equal_bit_by_bit_whatever_sets_the_companions_have(name, monkeypatch):
    lmm, engine = tiny_family_lmm(name), Shared(16, strict=True)
    sets = torch.stack([orthonormal(seed, 1, lmm.d_model) for seed in range(3)])
    requests = rows()
    of = {r.row_id: at % 3 for at, r in enumerate(requests)}

    def run(part):  # As a method would: the sets of these rows, be it a single one.
        used = sorted({of[r.row_id] for r in part})
        where = tuple(used.index(of[r.row_id]) for r in part)
        edit = Edit(residual=ResidualEdit(sets[used], of=where))
        return bits(monkeypatch, engine, part, lmm, edit)

    whole = run(requests)
    for part in (requests[::-1], requests[5:12], requests[30:31], requests[1::3]):
        for asked, heard in run(part).items():
            assert heard == whole[asked]


@pytest.mark.parametrize("name", ALL)
def test_the_self_test_passes(name):
    lmm = tiny_family_lmm(name)
    check_strict(lmm, shape_of(lmm, 16, True, rows()))


def leaning(inner):
    """A linear layer whose result depends a little on where a row stands."""
    return lambda x: inner(x) + 1e-6 * torch.arange(len(x)).view(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize("path", ["mlp.down_proj", "self_attn.q_proj"])
def test_the_self_test_names_a_layer_whose_result_depends_on_the_slot(path, monkeypatch):
    lmm = tiny_family_lmm("llava")
    module = lmm.layers[1].get_submodule(path)
    monkeypatch.setattr(module, "forward", leaning(module.forward))
    with pytest.raises(RunFailed, match=rf"1\.{path}.*other bits[\s\S]*engine.strict=false"):
        list(Shared(16, strict=True).generate(lmm, rows(), pictures(), Edit(), SAMPLING))


def test_the_self_test_names_the_attention_if_its_result_depends_on_the_slot(monkeypatch):
    merge = attention.merge

    def leans(*halves):
        return merge(*halves) + 1e-6 * torch.arange(len(halves[0]))[:, None, None, None]

    monkeypatch.setattr(works, "merge", leans)
    lmm = tiny_family_lmm("llava")
    with pytest.raises(RunFailed, match=r"the attention before layers\.0\.self_attn\.o_proj"):
        check_strict(lmm, shape_of(lmm, 16, True, rows()))


def test_the_self_test_runs_once_for_a_model_and_a_shape(monkeypatch):
    tested = []
    monkeypatch.setattr("lmmsteer.engine.shared.check_strict", lambda *of: tested.append(of))
    lmm, engine = tiny_family_lmm("llava"), Shared(16, strict=True)
    for _ in range(2):
        list(engine.generate(lmm, rows()[:2], pictures(), Edit(), SAMPLING))
    assert len(tested) == 1
    other = replace(load("other", str(tiny_family("llava"))), digest="another")
    list(engine.generate(other, rows()[:2], pictures(), Edit(), SAMPLING))
    assert len(tested) == 2
