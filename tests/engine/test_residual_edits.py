"""Affine ablation, activation addition, norms and scopes against hooks on plain transformers."""

from functools import cache

import pytest
import torch

from lmmsteer.engine.edit import EVERYWHERE, Edit, ResidualEdit
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from lmmsteer.errors import LmmsteerError
from tests.engine import oracle
from tests.engine.test_families import NEW, PICTURES, rows
from tests.engine.test_hooks import orthonormal
from tests.tiny import photographs, tiny_llava
from tests.tiny_families import tiny_family, tiny_family_lmm

GREEDY = Sampling(temperature=0, max_new_tokens=NEW)
ENGINES = [lambda: Shared(4), lambda: Shared(4, strict=True), lambda: Reference(5)]
FAMILIES = ["llava", "mllama", "qwen2_5_vl", "paligemma"]


def told(make, name, edit):
    found = list(make().generate(tiny_family_lmm(name), rows(), photographs(), edit, GREEDY))
    return [r.token_ids for r in found]


def by_hooks(name, change, scope=EVERYWHERE):
    """Greedy answers while `change(layer, place, r)` is what every residual point becomes."""
    lmm = tiny_family_lmm(name)
    plain = oracle.family_oracle(name, tiny_llava() if name == "llava" else tiny_family(name))
    state = {}

    def changed(layer, place, r):
        ids = state["ids"]
        if r.shape[1] == 1 and r.shape[1] != ids.shape[1]:
            return change(layer, place, r) if "generated" in scope else r
        picture = (ids == lmm.image_token_id)[..., None]
        inside = (picture & ("picture" in scope)) | (~picture & ("prompt" in scope))
        return torch.where(inside, change(layer, place, r), r)

    def before(layer):
        def hook(_, args, kwargs):
            if args:
                return (changed(layer, "block_input", args[0]), *args[1:]), kwargs
            return args, {
                **kwargs,
                "hidden_states": changed(layer, "block_input", kwargs["hidden_states"]),
            }

        return hook

    def after(layer, place):
        def hook(_, __, out):
            if isinstance(out, tuple):
                return (changed(layer, place, out[0]), *out[1:])
            return changed(layer, place, out)

        return hook

    for layer, (block, attention, mlp) in enumerate(plain.blocks()):
        block.register_forward_pre_hook(before(layer), with_kwargs=True)
        attention.register_forward_hook(after(layer, "attention"))
        mlp.register_forward_hook(after(layer, "mlp"))
    answers = []
    for request in rows():
        picture = photographs()[request.image_id]
        state["ids"] = lmm.inputs([request.prompt], [picture])["input_ids"]
        answers.append(plain.greedy(request.prompt, picture, NEW))
    return answers


def shift_of(name):
    """Each layer's own, each picture's own; the first layer's is none."""
    lmm = tiny_family_lmm(name)
    shape = (len(PICTURES), lmm.n_layers, lmm.d_model)
    v = 0.4 * torch.randn(shape, generator=torch.Generator().manual_seed(5))
    v[:, 0] = 0
    return v


@cache
def shifted_by_hooks(name, keep_norm):
    """The greedy answers of every row with each picture's shift."""
    v, answers = shift_of(name), []
    for at in range(len(PICTURES)):

        def add(layer, place, r, at=at):
            moved = r + v[at, layer] if place == "block_input" else r
            if keep_norm:
                moved = moved * (r.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True))
            return torch.where(moved.isnan(), r, moved)

        answers.append(by_hooks(name, add))
    return answers


@pytest.mark.parametrize("keep_norm", [False, True])
@pytest.mark.parametrize("make", ENGINES)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_shift_is_added_at_block_inputs_alone_each_layers_own_each_pictures_own(
    name, make, keep_norm
):
    v = shift_of(name)
    of = tuple(PICTURES.index(r.image_id) for r in rows())
    nothing = torch.zeros(*v.shape[:2], 1, v.shape[2])
    edit = Edit(residual=ResidualEdit(nothing, of=of, shift=v, keep_norm=keep_norm))
    found, wanted = told(make, name, edit), shifted_by_hooks(name, keep_norm)
    assert found == [wanted[at][row] for row, at in enumerate(of)]
    assert found != told(make, name, Edit())


@pytest.mark.parametrize(
    "scope",
    [{"picture"}, {"prompt"}, {"generated"}, {"prompt", "generated"}, {"picture", "prompt"}],
)
@pytest.mark.parametrize("make", ENGINES)
def test_only_the_tokens_in_scope_are_edited(make, scope):
    scope = frozenset(scope)
    a = orthonormal(3, 4, tiny_family_lmm("llava").d_model)
    wanted = by_hooks("llava", lambda _, __, r: r - (r @ a.T) @ a, scope)
    edit = Edit(residual=ResidualEdit(a, scope=scope))
    assert told(make, "llava", edit) == wanted
    assert wanted != told(make, "llava", Edit(residual=ResidualEdit(a)))


@pytest.mark.parametrize("make", ENGINES)
def test_a_picture_that_has_no_tokens_in_the_stream_cannot_be_told_from_the_prompt(make):
    a = orthonormal(3, 1, tiny_family_lmm("mllama").d_model)
    edit = Edit(residual=ResidualEdit(a, scope=frozenset({"picture"})))
    with pytest.raises(LmmsteerError, match="no tokens of its own"):
        told(make, "mllama", edit)
    both = Edit(residual=ResidualEdit(a, scope=frozenset({"generated"})))
    assert told(make, "mllama", both) == by_hooks(
        "mllama", lambda _, __, r: r - (r @ a.T) @ a, frozenset({"generated"})
    )


def test_keeping_the_norm_of_what_is_not_changed_changes_no_bit():
    d_model = tiny_family_lmm("llava").d_model
    edit = Edit(residual=ResidualEdit(torch.zeros(1, d_model), keep_norm=True))
    assert told(ENGINES[0], "llava", edit) == told(ENGINES[0], "llava", Edit())
