"""Inputs that some families' models take beside token ids, mask and picture features.

Each is made for a left-padded batch with one picture in every row, first of all in its turn; the
last `said` tokens are the answer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Extra = Callable[[Tensor, int, Mapping[str, Tensor], int], Tensor]


def said_types(ids: Tensor, placeholder: int, features: Mapping[str, Tensor], said: int) -> Tensor:
    """0 for the prompt, whose tokens attend in both directions in PaliGemma, 1 for the answer."""
    kinds = torch.zeros_like(ids)
    kinds[:, ids.shape[1] - said :] = 1
    return kinds


def picture_types(
    ids: Tensor, placeholder: int, features: Mapping[str, Tensor], said: int
) -> Tensor:
    """1 where the picture stands, 0 for text: where positions or directions are others."""
    return (ids == placeholder).long()


def read_tiles(ids: Tensor, placeholder: int, features: Mapping[str, Tensor], said: int) -> Tensor:
    """1 where a token reads a tile: the picture's own tiles, from its placeholder on.

    [rows, tokens, 1, max_tiles]; features' aspect_ratio_mask: [rows, 1, max_tiles].
    """
    reads = (ids == placeholder).cumsum(1) > 0  # [rows, tokens]
    tiles = features["aspect_ratio_mask"][:, 0].bool()  # [rows, max_tiles]
    return (reads[:, :, None, None] & tiles[:, None, None, :]).long()


EXTRAS: dict[str, Extra] = {
    "said_types": said_types,
    "picture_types": picture_types,
    "read_tiles": read_tiles,
}
