import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods import METHODS
from lmmsteer.methods.applying import Applying, numbered, similarity
from lmmsteer.methods.artifact import Artifact, ModelFacts, check
from lmmsteer.methods.base import Context
from lmmsteer.schema import Request
from tests.engine import oracle
from tests.tiny import photographs, save_tiny_llava, tiny_llava, tiny_lmm

LAYERS, WIDTH = 4, 32
PICTURES = dict(list(photographs().items())[:2])
PROMPTS = ("What is the gender of the person?", "Is it day or night?")
REQUESTS = [
    Request(f"{at:032x}", image_id, "p", prompt, seed)
    for at, (image_id, prompt, seed) in enumerate(
        (i, p, s) for i in PICTURES for p in PROMPTS for s in (0, 1)
    )
]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def artifact(k=1, seed=0, layer=1, n_layers=LAYERS, d_model=WIDTH):
    """What a fit makes: for k = 1 the direction is a candidate's."""
    candidates = random(n_layers, d_model, seed=seed)
    rows = [candidates[layer], *random(k, d_model, seed=seed + 50)][:k]
    directions = torch.linalg.qr(torch.stack(rows).T)[0].T
    directions = directions * torch.sign(directions[0] @ candidates[layer])
    mean = random(n_layers, d_model, seed=seed + 100)
    return Artifact(
        {"directions": directions, "candidates": candidates, "mean": mean}, {"layer": layer}
    )


def everywhere(fitted=None, n_layers=LAYERS, **parameters):
    return Applying(**parameters).everywhere(fitted or artifact(), n_layers)


def blocks(model):
    return model.model.language_model.layers


def hook_data(model, edit, at=0):
    """What an edit says, put into a model by hooks written out from its equations alone."""

    def projected(r, layer):
        a = edit.sets[at, layer if edit.sets.shape[1] > 1 else 0]
        return r - edit.alpha * (r @ a.T) @ a

    def before(layer, args, kwargs):
        found = args[0] if args else kwargs["hidden_states"]
        found = projected(found, layer)
        if edit.shifts is not None:
            found = found + edit.shifts[at, layer]
        return ((found, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": found})

    def after(layer, out):
        found = projected(out[0] if isinstance(out, tuple) else out, layer)
        return (found, *out[1:]) if isinstance(out, tuple) else found

    for at_layer, block in enumerate(blocks(model)):
        block.register_forward_pre_hook(
            lambda _, args, kwargs, n=at_layer: before(n, args, kwargs), with_kwargs=True
        )
        for module in (block.self_attn, block.mlp):
            module.register_forward_hook(lambda _, __, out, n=at_layer: after(n, out))


def seen(model, module_of):
    """The residuals that reach one module of every block, filled by the next forward pass."""
    found = {}

    def note(layer, args, kwargs):
        found[layer] = (args[0] if args else kwargs["hidden_states"])[0]

    for layer, block in enumerate(blocks(model)):
        module_of(block).register_forward_pre_hook(
            lambda _, args, kwargs, n=layer: note(n, args, kwargs), with_kwargs=True
        )
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llava(tmp_path_factory.mktemp("four"), n_layers=LAYERS)


@torch.no_grad()
def logits(model, processor):
    return model(**oracle.inputs(processor, PROMPTS[0], next(iter(PICTURES.values())))).logits


def test_by_default_the_directions_are_removed_at_every_layer_and_token():
    found = everywhere()
    assert torch.equal(found.directions, artifact().tensors["directions"])
    assert (found.alpha, found.shift, found.of) == (1.0, None, None)
    assert not found.keep_norm
    assert found.scope == {"picture", "prompt", "generated"}


def test_scope_strength_and_norm_are_handed_on():
    found = everywhere(alpha=0.5, scope=["generated"], keep_norm=True)
    assert (found.alpha, found.keep_norm, found.scope) == (0.5, True, {"generated"})


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, None),
        (3, (3,)),
        ([4, 3, 4], (3, 4)),
        ("8-11", (8, 9, 10, 11)),
        ([0, "2-3"], (0, 2, 3)),
    ],
)
def test_layers_are_numbers_ranges_and_lists_of_them(layers, expected):
    assert numbered(layers) == expected


@pytest.mark.parametrize("layers", [[], "", "3-", "4-3", -1, "all", [1, "x"], True, 1.5])
def test_layers_that_are_none_are_refused(layers):
    with pytest.raises(LmmsteerError, match=r"method\.layers="):
        Applying(layers=layers)


def test_only_the_named_layers_have_directions():
    found = everywhere(artifact(k=2), layers=["1-2"])
    assert found.sets.shape == (1, LAYERS, 2, WIDTH)
    for layer in (1, 2):
        assert torch.equal(found.sets[0, layer], artifact(k=2).tensors["directions"])
    assert not found.sets[0, [0, 3]].any()
    with pytest.raises(LmmsteerError, match="names layer 4, and the model has 4"):
        everywhere(layers=[1, 4])


def test_an_addition_is_the_difference_in_means_added_behind_the_block_it_is_from(folder):
    fitted = artifact(layer=1)
    model, processor = oracle.plain(folder)
    hook_data(model, everywhere(fitted, mode="add", alpha=-1.5))
    found = logits(model, processor)
    model, processor = oracle.plain(folder)

    def after(_, __, out):
        moved = -1.5 * fitted.tensors["candidates"][1]
        return (out[0] + moved, *out[1:]) if isinstance(out, tuple) else out + moved

    blocks(model)[1].register_forward_hook(after)
    assert torch.allclose(found, logits(model, processor), atol=1e-3)


def test_an_addition_of_a_file_that_says_nothing_adds_unit_vectors_where_it_is_told():
    bare = Artifact({"directions": torch.eye(WIDTH)[:2]})
    found = everywhere(bare, mode="add", alpha=3.0, layers=[0, 2])
    assert not found.sets.any()
    assert found.shifts.shape == (1, LAYERS, WIDTH)
    assert torch.equal(found.shifts[0, 0], 3 * torch.eye(WIDTH)[:2].sum(0))
    assert torch.equal(found.shifts[0, 2], found.shifts[0, 0])
    assert not found.shifts[0, [1, 3]].any()
    with pytest.raises(LmmsteerError, match="which layer's output") as error:
        everywhere(bare, mode="add")
    assert "method.layers" in error.value.mend
    with pytest.raises(LmmsteerError, match="no block reads that"):
        everywhere(artifact(layer=LAYERS - 1), mode="add")


@torch.no_grad()
def test_affine_ablation_leaves_the_means_component_in_every_residual(folder):
    fitted = artifact(k=2)
    a, mean = fitted.tensors["directions"], fitted.tensors["mean"]
    model, processor = oracle.plain(folder)
    hook_data(model, everywhere(fitted, mode="affine"))
    found = seen(model, lambda block: block.input_layernorm)
    between = seen(model, lambda block: block.post_attention_layernorm)
    logits(model, processor)
    for layer in range(LAYERS):
        expected = (a @ mean[layer]).expand(len(found[layer]), 2)
        assert torch.allclose(found[layer] @ a.T, expected, atol=1e-3)
        assert torch.allclose(between[layer] @ a.T, expected, atol=1e-3)


def test_a_share_of_an_affine_ablation_goes_that_share_of_the_way():
    fitted = artifact(k=2)
    a, mean = fitted.tensors["directions"], fitted.tensors["mean"]
    found = everywhere(fitted, mode="affine", alpha=0.25, layers=[2])
    r = random(WIDTH, seed=7)
    moved = r - 0.25 * (found.sets[0, 2] @ r) @ found.sets[0, 2] + found.shifts[0, 2]
    assert torch.allclose(a @ moved, 0.75 * (a @ r) + 0.25 * (a @ mean[2]), atol=1e-5)
    off = torch.eye(WIDTH) - a.T @ a
    assert torch.allclose(off @ moved, off @ r, atol=1e-5)
    assert not found.shifts[0, [0, 1, 3]].any()


def projector(rows):
    q = torch.linalg.qr(rows.double().T)[0]
    return q @ q.T


def join(*artifacts, **parameters):
    """Several files as a run has them: joined, written and read again."""
    found = METHODS["ablation"](**parameters).join(artifacts)
    return Artifact.from_bytes(found.to_bytes())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3))
def test_several_files_remove_their_span_whatever_their_order(seed, k, j):
    both = [artifact(k, seed), artifact(j, seed + 1)]
    found, other = (join(*order).tensors["directions"] for order in (both, both[::-1]))
    rows = torch.cat([each.tensors["directions"] for each in both])
    assert torch.allclose(found @ found.T, torch.eye(k + j), atol=1e-5)
    assert torch.allclose((found.T @ found).double(), projector(rows), atol=1e-5)
    assert torch.allclose(found.T @ found, other.T @ other, atol=1e-5)


def test_one_file_stays_as_it_is():
    only = artifact(2)
    assert METHODS["ablation"]().join([only]) is only


def test_a_direction_that_another_file_has_too_adds_none():
    fitted = artifact(2)
    a = fitted.tensors["directions"]
    found = join(fitted, Artifact({"directions": a[1:]}))
    assert torch.allclose(found.tensors["directions"], a, atol=1e-6)
    check(found, WIDTH)


def test_several_means_keep_each_directions_component():
    both = [artifact(1, seed=1), artifact(2, seed=2)]
    found = everywhere(join(*both), mode="affine")
    for each in both:
        a, mean = each.tensors["directions"], each.tensors["mean"]
        assert torch.allclose(found.shifts[0] @ a.T, mean @ a.T, atol=1e-4)


def test_several_additions_each_go_to_their_own_layer():
    both = [artifact(seed=1, layer=0), artifact(seed=2, layer=2)]
    found = everywhere(join(*both), mode="add", alpha=2.0).shifts[0]
    assert torch.allclose(found[1], 2 * both[0].tensors["candidates"][0], atol=1e-5)
    assert torch.allclose(found[3], 2 * both[1].tensors["candidates"][2], atol=1e-5)
    assert not found[[0, 2]].any()
    alone = Artifact({"directions": torch.eye(WIDTH)[:1]})
    with pytest.raises(LmmsteerError, match="which layer's output"):
        everywhere(join(both[0], alone), mode="add")


def test_what_several_files_agree_on_is_kept():
    both = [replace(artifact(seed=n), metadata={"alpha": 0.5, "layer": n}) for n in (1, 2)]
    assert join(*both).metadata == {"alpha": 0.5, "layers": [1, 2]}


def test_files_that_cannot_be_joined_are_refused():
    with pytest.raises(LmmsteerError, match=r"File 2 of method\.artifact holds .* \[1, 16\]"):
        join(artifact(), artifact(d_model=16))
    with pytest.raises(LmmsteerError, match=r"File 1 of method\.artifact has no tensor"):
        join(Artifact({}), artifact())
    apart = [replace(artifact(), metadata={"model_digest": digest}) for digest in ("1", "2")]
    with pytest.raises(LmmsteerError, match="different models"):
        join(*apart)
    found = join(apart[0], artifact())
    with pytest.raises(LmmsteerError, match="another model"):
        METHODS["ablation"]().check(found, FACTS)


def test_directions_that_are_not_orthogonal_are_refused_where_conflict_is_an_error():
    with pytest.raises(LmmsteerError, match=r"Directions 1 and 2 of method\.artifact"):
        join(artifact(1, 1), artifact(1, 2), conflict="error")
    apart = [Artifact({"directions": torch.eye(WIDTH)[n : n + 1]}) for n in (0, 1)]
    assert torch.equal(join(*apart, conflict="error").tensors["directions"], torch.eye(WIDTH)[:2])
    with pytest.raises(LmmsteerError, match=r"method\.conflict=first is not known"):
        METHODS["ablation"](conflict="first")


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


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"mode": "rotate"}, "mode=rotate"),
        ({"alpha": -0.1}, "alpha=-0.1"),
        ({"alpha": 2.0, "mode": "affine"}, "alpha=2.0"),
        ({"alpha": math.inf, "mode": "add"}, "alpha=inf"),
        ({"alpha": math.nan}, "alpha=nan"),
        ({"scope": []}, "scope"),
        ({"scope": ["answers"]}, "scope"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(wrong, named):
    with pytest.raises(LmmsteerError, match=named):
        Applying(**wrong)
    assert Applying(alpha=-7.0, mode="add").alpha == -7


def test_alpha_null_is_the_strength_that_the_fit_has_chosen():
    fitted = artifact()
    chosen = replace(fitted, metadata={"layer": 1, "alpha": 0.5, "judged_as": "project"})
    assert everywhere(chosen, alpha=None).alpha == 0.5
    for other, mode in ((fitted, "project"), (chosen, "add")):
        with pytest.raises(LmmsteerError, match="names no strength") as error:
            everywhere(other, alpha=None, mode=mode)
        assert f"method.judged_as={mode}" in error.value.mend


FACTS = ModelFacts("tiny", "12e4", WIDTH, LAYERS, 400, "t")


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"layers": "2-4"}, "names layer 4"),
        ({"mode": "affine"}, "FILE has no tensor `mean`"),
        ({"mode": "add"}, "FILE does not say which layer"),
        ({"gate": {"threshold": 0.1}}, "no layer of this model: None of 4"),
        ({"gate": {"threshold": 0.1, "layer": 1}}, "FILE has no tensor `candidates`"),
        ({"gate": {"threshold": 0.1, "layer": 1, "tensor": "short"}}, "FILE has no .* fitting"),
        ({"alpha": None}, "FILE names no strength"),
    ],
)
def test_an_artifact_that_lacks_what_the_parameters_need_is_refused_before_weights_are_loaded(
    parameters, problem
):
    bare = Artifact({"directions": torch.eye(WIDTH)[:1], "short": torch.ones(3)})
    for name in ("ablation", "steered_dataset"):
        METHODS[name]().check(bare, FACTS, "FILE")
        with pytest.raises(LmmsteerError, match=problem):
            METHODS[name](**parameters).check(bare, FACTS, "FILE")
        with pytest.raises(LmmsteerError, match="FILE holds directions of shape"):
            METHODS[name]().check(bare, replace(FACTS, d_model=16), "FILE")
    METHODS["steered_dataset"](**parameters).check(bare, replace(FACTS, n_layers=None))


def test_what_is_applied_defines_no_fit():
    for name in ("ablation", "steered_dataset", "random_direction"):
        assert METHODS[name].applied == {"alpha", "mode", "layers", "scope", "keep_norm", "gate"}
        assert METHODS[name]().touches == {"residual"}
        assert "picture_scope" in METHODS[name](scope=["prompt", "generated"]).touches


def test_random_directions_can_stand_against_every_way_to_apply_one():
    lmm, context = tiny_lmm(), Context(pictures=PICTURES)
    some = METHODS["random_direction"](seed=3, layers=[1], scope=["generated"])
    found = some.edit(lmm, REQUESTS, context).residual
    assert found.scope == {"generated"}
    assert not found.sets[0, 0].any()
    drawn = found.sets[0, 1, 0]
    added = replace(some, mode="add", alpha=4.0).edit(lmm, REQUESTS, context).residual
    assert torch.allclose(added.shifts[0, 1], 4 * drawn)
    for wrong in (
        {"mode": "affine"},
        {"alpha": None},
        {"gate": {"threshold": 0.1}},
        {"mode": "add", "layers": None},
    ):
        with pytest.raises(LmmsteerError, match="random directions have none"):
            replace(some, **wrong)
