"""Llama-3.2-Vision's tower against a walk through its blocks, as its authors take its states."""

import torch

from tests.tiny import photographs
from tests.tiny_families import tiny_family_lmm


@torch.inference_mode()
def test_intermediate_states_are_those_that_go_into_their_blocks():
    lmm = tiny_family_lmm("mllama")
    tower, given = lmm.model.model.vision_model, {}
    inputs = lmm.inputs(["What?"], [photographs()["coffee"]])
    names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")

    def keep(_, args, kwargs):
        given.update(x=args[0], mask=kwargs["attention_mask"])

    handle = tower.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    found = tower(**{name: inputs[name] for name in names}).last_hidden_state
    handle.remove()

    x, before = given["x"], []
    for block in tower.transformer.layers:
        before.append(x)
        x = block(x, attention_mask=given["mask"])
        x = x[0] if isinstance(x, tuple) else x
    rows, pictures, tiles, patches, width = found.shape
    size = x.shape[-1]
    assert (rows, pictures, width) == (1, 1, size * (1 + len(before)))
    assert tower.intermediate_layers_indices == list(range(len(before)))
    padded = [state.view(tiles, -1, size)[:, :patches] for state in before]
    for at, state in enumerate(padded):
        assert torch.equal(found[0, 0, :, :, size + at :: len(before)], state)
    assert not torch.equal(padded[0], padded[1])
