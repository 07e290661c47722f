"""The shared engine against plain transformers, family by family."""

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from itertools import combinations

import pytest
import torch

from lmmsteer.engine.edit import Bias, Edit, FeatureEdit, ResidualEdit
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shape import Shape
from lmmsteer.engine.shared import Shared
from lmmsteer.errors import LmmsteerError
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm, load
from lmmsteer.schema import row_id
from tests.engine import oracle
from tests.engine.test_families import (
    NEW,
    PICTURES,
    ablation,
    expected,
    opened,
    rows,
)
from tests.engine.test_hooks import orthonormal
from tests.tiny import photographs
from tests.tiny_families import NAMES, tiny_family, tiny_family_lmm

ALL = ["llava", *(name for name in NAMES if name != "paligemma2")]  # Its window is too short.
STEERED = [name for name in ALL if name != "blip"]
ENGINES = [Shared, Reference]
GREEDY = Sampling(temperature=0, max_new_tokens=NEW)


def told(engine, name, edit=Edit(), requests=None, sampling=GREEDY, lmm=None):  # noqa: B008
    lmm = lmm or tiny_family_lmm(name)
    found = list(engine.generate(lmm, requests or rows(), photographs(), edit, sampling))
    assert [r.error for r in found] == [None] * len(found)
    return [r.token_ids for r in found]


def by_oracle(name, requests, place):
    """Greedy answers of plain transformers while `place(plain)` has put hooks into it."""
    plain = opened(name)
    with ExitStack() as placed:
        for handle in place(plain):
            placed.callback(handle.remove)
        return [plain.greedy(r.prompt, photographs()[r.image_id], NEW) for r in requests]


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("name", ALL)
def test_greedy_answers_are_those_of_plain_transformers_row_by_row(name, k):
    if k and name == "blip":
        pytest.skip("Has no residual stream to ablate.")
    assert told(Shared(4), name, ablation(name, k)[1]) == expected(name, k)
    assert len({tuple(tokens) for tokens in expected(name, k)}) > 5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ALL)
def test_rows_that_end_at_different_steps_end_where_plain_transformers_has_that_token(name, engine):
    lmm, whole = tiny_family_lmm(name), expected(name, 0)

    def cut(ends):
        return [next((t[:at] for at, token in enumerate(t) if token in ends), t) for t in whole]

    pairs = combinations(sorted({token for tokens in whole for token in tokens}), 2)
    ends = max(pairs, key=lambda ends: len({len(tokens) for tokens in cut(ends)}))
    assert len({len(tokens) for tokens in cut(ends)}) > 3
    ended = replace(lmm, eos_ids=(*lmm.eos_ids, *ends))
    assert told(engine(4), name, lmm=ended) == cut(ends)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", STEERED)
def test_each_pictures_rows_are_ablated_along_its_own_direction(name, engine):
    d_model = tiny_family_lmm(name).d_model
    third = orthonormal(7, 1, d_model)
    sets = torch.stack([torch.zeros(1, d_model), ablation(name, 1)[0], third])
    of = tuple(PICTURES.index(r.image_id) for r in rows())
    edit = Edit(residual=ResidualEdit(sets, of=of))
    last = by_oracle(name, rows()[6:], lambda p: oracle.hook_ablation(p.model, third, p.blocks()))
    found = told(engine(4), name, edit)
    assert found == [*expected(name, 0)[:3], *expected(name, 1)[3:6], *last]
    assert found[3:6] != expected(name, 0)[3:6]


@pytest.mark.parametrize("name", STEERED)
def test_each_layer_is_ablated_along_its_own_directions_picture_by_picture(name):
    lmm = tiny_family_lmm(name)
    sets = torch.stack(
        [
            torch.stack([orthonormal(10 * s + at, 2, lmm.d_model) for at in range(lmm.n_layers)])
            for s in range(2)
        ]
    )
    requests = [rows()[at] for at in (0, 3, 1, 4)]
    edit = Edit(residual=ResidualEdit(sets, of=(0, 1, 0, 1)))

    def place(of_layers):
        def hooks(plain):
            blocks = zip(of_layers, plain.blocks(), strict=True)
            found = [oracle.hook_ablation(plain.model, d, [block]) for d, block in blocks]
            return [handle for handles in found for handle in handles]

        return hooks

    first = by_oracle(name, requests[::2], place(sets[0]))
    second = by_oracle(name, requests[1::2], place(sets[1]))
    wanted = [first[0], second[0], first[1], second[1]]
    assert told(Shared(3), name, edit, requests) == wanted
    assert told(Reference(3), name, edit, requests) == wanted


def edited(plain, scale, shift):
    """Hooks that change the picture's features in a model opened by hand."""
    if hasattr(plain, "edit_features"):
        return plain.edit_features(scale, shift)
    inner = plain.model.model
    projector = inner.visual.merger if hasattr(inner, "visual") else inner.multi_modal_projector
    return [projector.register_forward_hook(lambda _, __, f: f * scale + shift)]


@cache
def change(name):
    generator, lmm = torch.Generator().manual_seed(3), tiny_family_lmm(name)
    width = Shared().features(lmm, [lmm.prepare(photographs()["cat"])])[0].shape[-1]
    scale, shift = torch.rand(2, width, generator=generator)
    return (scale > 0.3).float(), shift * (scale < 0.3)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", STEERED)
def test_a_feature_edit_is_a_change_of_what_the_projector_says(name, engine, monkeypatch):
    scale, shift = change(name)
    plain, requests = opened(name), rows()[:4]
    if name.startswith("clipcap"):
        before = plain.prefix
        monkeypatch.setattr(plain, "prefix", lambda picture: before(picture) * scale + shift)
        wanted = by_oracle(name, requests, lambda _: [])
    else:
        wanted = by_oracle(name, requests, lambda p: edited(p, scale, shift))
    assert wanted != expected(name, 0)[:4]
    edit = Edit(features=FeatureEdit(scale, shift))
    assert told(engine(3), name, edit, requests) == wanted
    assert told(engine(3), name, requests=requests) == expected(name, 0)[:4]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_feature_edit_is_refused_where_there_is_no_projector(engine):
    width = torch.ones(tiny_family_lmm("blip").d_model)
    with pytest.raises(LmmsteerError, match="blip models have no projector"):
        told(engine(3), "blip", Edit(features=FeatureEdit(width, width)))


@pytest.mark.parametrize("engine", ENGINES)
def test_directions_are_refused_where_there_is_no_residual_stream(engine):
    directions = orthonormal(1, 1, tiny_family_lmm("blip").d_model)
    with pytest.raises(LmmsteerError, match="no pre-norm residual stream"):
        told(engine(3), "blip", Edit(residual=ResidualEdit(directions)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["llava", "mllama", "paligemma", "blip", "clipcap"])
def test_a_bias_is_added_to_the_logits_of_every_step(name, engine):
    plain = opened(name)
    head = plain.model.text_decoder.cls if name == "blip" else plain.model.lm_head
    said = [token for tokens in expected(name, 0) for token in tokens]
    head_size = (head.predictions.decoder if name == "blip" else head).weight.shape[0]
    bias = torch.randn(head_size, generator=torch.Generator().manual_seed(1))
    bias[torch.tensor(said[:20])] = -torch.inf
    wanted = by_oracle(
        name, rows()[:4], lambda _: [head.register_forward_hook(lambda _, __, z: z + bias)]
    )
    found = told(engine(3), name, Edit(rules=(Bias(bias),)), rows()[:4])
    assert found == wanted
    assert not {token for tokens in found for token in tokens} & set(said[:20])


@pytest.mark.parametrize("name", ALL)
def test_sampled_answers_are_those_of_the_reference_engine(name):
    requests = [
        replace(r, seed=seed, row_id=row_id(r.image_id, None, r.prompt, seed))
        for r in rows()
        for seed in range(3)
    ]
    sampling = Sampling(top_k=40, top_p=0.95, max_new_tokens=NEW)
    edit = Edit() if name == "blip" else ablation(name, 2)[1]
    found = told(Shared(8), name, edit, requests, sampling)
    assert found == told(Reference(9), name, edit, requests, sampling)
    assert len({tuple(tokens) for tokens in found}) > len(requests) * 0.8


def as_accelerators_do(lmm, slots, strict, requests, streams=1):
    """The shape of an accelerator's calls: all slots at every step, four steps between looks."""
    return Shape(slots, slots + 4, min(slots, 16), fixed=True, window=4)


@pytest.mark.parametrize("name", ALL)
def test_calls_of_one_shape_and_four_steps_at_once_give_the_same_answers(name, monkeypatch):
    monkeypatch.setattr("lmmsteer.engine.shared.shape_of", as_accelerators_do)
    assert told(Shared(5), name) == expected(name, 0)
    if name != "blip":
        assert told(Shared(5), name, ablation(name, 2)[1]) == expected(name, 2)


@pytest.mark.parametrize("shape", ["a processor's", "an accelerator's"])
@pytest.mark.parametrize("name", ALL)
def test_a_picture_that_is_not_finite_fails_alone_and_is_forgotten(name, shape, monkeypatch):
    if shape == "an accelerator's":
        monkeypatch.setattr("lmmsteer.engine.shared.shape_of", as_accelerators_do)
    prepare = Lmm.prepare

    def poisoned(lmm, picture):
        made = prepare(lmm, picture)
        if picture is photographs()["astronaut"]:
            made.features["pixel_values"] = made.features["pixel_values"] * torch.nan
        return made

    engine, lmm = Shared(5), tiny_family_lmm(name)
    with monkeypatch.context() as during:
        during.setattr(Lmm, "prepare", poisoned)
        found = list(engine.generate(lmm, rows(), photographs(), Edit(), GREEDY))
    assert [r.error_kind for r in found] == ["nonfinite"] * 3 + [None] * 6
    assert "step 0" in found[0].error
    assert [r.token_ids for r in found[3:]] == expected(name, 0)[3:]
    assert told(engine, name) == expected(name, 0)


@pytest.mark.parametrize("name", ALL)
def test_strict_answers_are_those_of_plain_transformers_after_the_self_test(name):
    engine = Shared(16, strict=True)
    assert told(engine, name) == expected(name, 0)
    assert engine.stats.slots == 16


def traces(lmm):
    """What an engine could leave behind: the attention's name, hooks, replaced methods."""
    modules = list(lmm.model.named_modules())
    return (
        DECODING[lmm.family.name].decoder(lmm).config._attn_implementation,
        [(name, len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in modules],
        [name for name, m in modules if "forward" in vars(m)],
    )


@pytest.mark.parametrize("way", ["to the end", "left half-way", "with an exception"])
@pytest.mark.parametrize("name", ALL)
def test_a_run_leaves_nothing_in_the_model(name, way, monkeypatch):
    lmm = tiny_family_lmm(name)
    with torch.no_grad():  # transformers puts hooks of its own into a tower when it first runs.
        DECODING[lmm.family.name].features(lmm, [lmm.prepare(photographs()["astronaut"])])
    before = traces(lmm)
    edit = Edit() if name == "blip" else ablation(name, 1)[1]
    running = Shared(2).generate(lmm, rows()[:5], photographs(), edit, GREEDY)
    next(running)
    assert traces(lmm) == before  # Whoever has the generator has a model that is its own.
    if way == "to the end":
        list(running)
    elif way == "left half-way":
        running.close()
    else:
        monkeypatch.setattr(DECODING[lmm.family.name], "behind", lambda *_: 1 / 0, raising=False)
        with pytest.raises(ZeroDivisionError):
            list(running)
    assert traces(lmm) == before


@cache
def wide():
    """Gemma 2's decoder with a window that is longer than its rows."""
    folder = tiny_family("paligemma2").parent / "wide"
    shutil.copytree(tiny_family("paligemma2"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["sliding_window"] = 512
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("k", [0, 2])
def test_capped_scores_are_those_of_plain_transformers(k):
    lmm, plain = load("wide", str(wide())), oracle.family_oracle("paligemma2", wide())
    directions = orthonormal(k, k, lmm.d_model) if k else None
    edit = Edit(residual=None if directions is None else ResidualEdit(directions))
    if directions is not None:
        oracle.hook_ablation(plain.model, directions, plain.blocks())
    wanted = [plain.greedy(r.prompt, photographs()[r.image_id], NEW) for r in rows()]
    assert told(Shared(4), "wide", edit, lmm=lmm) == wanted
    assert told(Shared(16, strict=True), "wide", edit, lmm=lmm) == wanted


def test_a_window_shorter_than_a_row_is_refused_with_the_engine_that_has_one():
    with pytest.raises(LmmsteerError, match=r"window of 24[\s\S]*engine=reference"):
        told(Shared(4), "paligemma2")
