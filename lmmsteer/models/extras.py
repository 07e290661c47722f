"""Inputs that some families' models take beside token ids, mask and picture features.

Each is made for a left-padded batch with one picture in every row, first of all in its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def token_type_ids(ids: Tensor, placeholder: int, features: Mapping[str, Tensor]) -> Tensor:
    """0 for every token of the prompt: PaliGemma's prompt attends in both directions."""
    return torch.zeros_like(ids)


def mm_token_type_ids(ids: Tensor, placeholder: int, features: Mapping[str, Tensor]) -> Tensor:
    """1 where the picture stands, 0 for text: Qwen2.5-VL takes its 3D positions from there."""
    return (ids == placeholder).long()


def cross_attention_mask(ids: Tensor, placeholder: int, features: Mapping[str, Tensor]) -> Tensor:
    """1 where a token reads a tile: the picture's own tiles, from its placeholder on.

    [rows, tokens, 1, max_tiles]; features' aspect_ratio_mask: [rows, 1, max_tiles].
    """
    reads = (ids == placeholder).cumsum(1) > 0  # [rows, tokens]
    tiles = features["aspect_ratio_mask"][:, 0].bool()  # [rows, max_tiles]
    return (reads[:, :, None, None] & tiles[:, None, None, :]).long()


EXTRAS: dict[str, Callable[[Tensor, int, Mapping[str, Tensor]], Tensor]] = {
    "token_type_ids": token_type_ids,
    "mm_token_type_ids": mm_token_type_ids,
    "cross_attention_mask": cross_attention_mask,
}
