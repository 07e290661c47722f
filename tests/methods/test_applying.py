"""Directions at work: layers, scopes, additions, affine ablation."""

import pytest
import torch

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.applying import Applying, numbered
from lmmsteer.methods.artifact import Artifact
from tests.engine import oracle
from tests.methods.directions_world import (
    LAYERS,
    PICTURES,
    PROMPTS,
    WIDTH,
    artifact,
    everywhere,
    random,
)
from tests.tiny import save_tiny_llava


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
