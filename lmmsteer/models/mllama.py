"""Llama-3.2-Vision's vision tower as it was trained, whatever release of transformers runs it.

Beside its last state the tower hands out intermediate ones, which the model's authors take where
they go into a block (`ImageTransformer.forward` of llama-models; optimum-habana's encoder too).
transformers 4.55 hands out copies of the last state instead, later ones (5.23 too) what comes out
of the blocks, one block too late: the decoder reads other pictures than it was trained with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmmsteer.device import ADAPTED


def keep_intermediate_states(model: Any) -> None:
    """Let the tower hand out the states that go into its intermediate layers.

    x_i: what goes into block i; result: [last; x_i for i in intermediate_layers_indices], at the
    end of whose axis the states of one channel stand side by side.
    """
    tower = model.model.vision_model
    if type(tower).forward.__module__.startswith(ADAPTED):
        return
    layers = tower.transformer.layers
    held: dict[int, Tensor] = {}

    def entering(layer: int) -> Any:
        def keep(_: Any, args: Any, kwargs: Any) -> None:
            given = args or [kwargs.get("hidden_states", kwargs.get("hidden_state"))]
            held[layer] = given[0]  # By another name in another release.

        return keep

    for layer in tower.intermediate_layers_indices:
        layers[layer].register_forward_pre_hook(entering(layer), with_kwargs=True)

    def after(_: Any, args: Any, output: Any) -> Any:
        states = [held[layer] for layer in tower.intermediate_layers_indices]
        held.clear()
        last = output.last_hidden_state  # [rows, pictures, tiles, patches, width * (1 + states)]
        *outer, tiles, patches, _ = last.shape
        width = states[0].shape[-1]
        found = torch.stack(states, -1).flatten(-2)  # [rows * pictures, tiles * padded, ...]
        found = found.unflatten(1, (tiles, -1))[:, :, :patches].reshape(*outer, tiles, patches, -1)
        output.last_hidden_state = torch.cat([last[..., :width], found], -1)
        return output

    tower.register_forward_hook(after)
