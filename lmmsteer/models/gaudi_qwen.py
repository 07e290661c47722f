"""optimum-habana's Qwen2.5-VL made to answer as transformers' own does, at fixed shapes.

Release 1.21.2 is made for pictures whose sides are multiples of 112 pixels, in batches of one: a
grid that it pads to whole windows is cut as if it were not; without its fused kernel, windows read
each other; and with fixed shapes the mask is longer than the prompt, and positions do not follow
padding. Its blocks, its cache and its vision tower stay; what calls them is here.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

WINDOW = 64  # Patches of a window, which optimum-habana takes for given.


def mend(model: Any) -> None:
    """Mend a loaded Qwen2.5-VL of optimum-habana's."""
    tower = model.model.visual
    tower.pre_attn = functools.partial(_pad_to_windows, tower, tower.pre_attn)
    for block in tower.blocks:
        block.attn.forward = functools.partial(_vision_attention, block.attn)
    model.prepare_inputs_for_generation = functools.partial(_next_inputs, model)


def _pad_to_windows(tower: Any, plain: Any, pixels: Tensor, grid: Tensor) -> tuple[Any, ...]:
    """`pre_attn`, whose last result is the grid [[frames, height, width]] with its padding."""
    *found, _ = plain(pixels, grid)
    side = tower.window_size // tower.patch_size
    return *found, torch.cat([grid[:, :1], (grid[:, 1:] + side - 1) // side * side], dim=1)


def _vision_attention(
    module: Any,
    hidden_states: Tensor,
    cu_seqlens: Tensor | None,
    position_embeddings: tuple[Tensor, Tensor],
    attn_mask: Tensor,
    **_: Any,
) -> Tensor:
    """Attention of one picture within its windows, or (cu_seqlens None) within all of it.

    hidden_states: [patches, width]. attn_mask: of patches that are no padding, [..., patches]; of
    pairs of such where there are no windows. Padding reads something, so that it stays finite.
    """
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as plain

    patches = len(hidden_states)
    query, key, value = module.qkv(hidden_states).unflatten(-1, (3, module.num_heads, -1)).unbind(1)
    query, key = plain.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    size = patches if cu_seqlens is None else WINDOW
    # [windows, heads, patches of one, width of a head]
    query, key, value = (x.unflatten(0, (-1, size)).transpose(1, 2) for x in (query, key, value))
    real = attn_mask.reshape(-1, patches).any(0).view(-1, 1, 1, size)
    real = real | ~real.any(-1, keepdim=True)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, real)
    return module.proj(out.transpose(1, 2).reshape(patches, -1))


def _next_inputs(
    model: Any,
    input_ids: Tensor,
    *,
    past_key_values: Any,
    attention_mask: Tensor,
    token_idx: Tensor,
    token_idx_cpu: int,
    first_token: bool = True,
    pixel_values: Tensor | None = None,
    image_grid_thw: Tensor | None = None,
    **_: Any,
) -> dict[str, Any]:
    """A call's arguments: for the whole prompt at first, then for one token; two sets of shapes.

    input_ids, attention_mask: [rows, prompt + new tokens], the mask 0 at padding and at what is not
    said yet. token_idx: how many tokens stand there. first_token: as generate tells it; the cache
    would ask the card. The picture is seen here, outside of what a card records, since its shapes
    are its own.
    """
    inner, total = model.model, attention_mask.shape[1]
    device = input_ids.device
    if first_token:
        prompt = token_idx_cpu
        ids, mask = input_ids[:, :prompt], attention_mask[:, :prompt]
        at = torch.arange(prompt, device=device)
        positions, _ = inner.get_rope_index(ids, image_grid_thw, attention_mask=mask)
        # The first new token stands behind its own row's last, wherever padding put that.
        model.behind = positions.to(device).amax((0, 2)).unsqueeze(1) + 1 - prompt  # [rows, 1]
        embeds = inner.get_input_embeddings()(ids)
        if pixel_values is not None:
            seen = inner.visual.get_image_embeds(pixel_values, image_grid_thw)
            where = (ids == model.config.image_token_id).unsqueeze(-1)
            embeds = embeds.masked_scatter(where, seen.to(embeds.dtype))
        given = {"input_ids": None, "inputs_embeds": embeds}
        real = torch.nn.functional.pad(mask, (0, total - prompt)).bool()
    else:
        at = (token_idx - 1).reshape(1)
        given = {"input_ids": input_ids.index_select(1, at)}
        positions = (model.behind + at).expand(3, -1, -1)
        real = attention_mask.bool()
    places = torch.arange(total, device=device)
    # [rows, 1, tokens, prompt + new tokens]; padding reads itself, so that it stays finite.
    reads = real[:, None, None] & (places <= at[:, None]) | (places == at[:, None])
    text = at.expand(1, len(input_ids), -1)
    return {
        **given,
        "position_ids": torch.cat([text, positions.to(device)]),
        "attention_mask": reads,
        "past_key_values": past_key_values,
        "cache_position": at,
        "use_cache": True,
        "logits_to_keep": 1,
    }
