"""Families of 2025: pictures in tiles, features at several layers, masks that are not causal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from lmmsteer.models.decoding.base import Decoding, FeatureChange
from lmmsteer.models.decoding.families import Qwen
from lmmsteer.models.lmm import Lmm, PreparedPicture


class Qwen3(Qwen):
    """Qwen2.5-VL's positions, and deepstack: features of early layers of the vision tower.

    They are added to the picture's tokens behind the decoder's first blocks. A picture's features
    are all of them side by side, [tokens, (1 + levels) * d_model].
    """

    def features(self, lmm: Lmm, pictures: Sequence[PreparedPicture]) -> list[Tensor]:
        given = self.seen(lmm, pictures)
        grid = given["image_grid_thw"]
        found = lmm.model.model.visual(given["pixel_values"], grid_thw=grid)
        sizes = grid.prod(-1) // lmm.model.model.visual.spatial_merge_size**2
        return list(_together(found)[0].split(sizes.tolist()))

    def prefix(
        self,
        lmm: Lmm,
        ids: Tensor,
        pictures: Sequence[PreparedPicture],
        features: Sequence[Tensor],
    ) -> dict[str, Any]:
        if not features:
            return super().prefix(lmm, ids, pictures, features)
        first, *later = torch.cat(list(features)).split(lmm.d_model, -1)
        return {
            **super().prefix(lmm, ids, pictures, [first]),
            "visual_pos_masks": ids == lmm.image_token_id,
            "deepstack_visual_embeds": later,
        }

    @contextmanager
    def editing(self, lmm: Lmm, edit: FeatureChange) -> Iterator[None]:
        def after(_: Any, __: Any, output: Any) -> Any:
            seen, parted = _together(output)
            first, *later = edit(seen).split(lmm.d_model, -1)
            return parted(first, later)

        handle = lmm.model.model.visual.register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()


def _together(output: Any) -> tuple[Tensor, Any]:
    """The vision tower's features side by side, and the way back to what it hands out."""
    if isinstance(output, tuple):  # transformers 4
        return torch.cat([output[0], *output[1]], -1), lambda first, later: (first, later)

    def parted(first: Tensor, later: list[Tensor]) -> Any:
        output.pooler_output, output.deepstack_features = first, later
        return output

    return torch.cat([output.pooler_output, *output.deepstack_features], -1), parted


class Gemma3(Decoding):
    """The picture's tokens see each other in both directions; all else is causal.

    So nothing in a prefix depends on what stands behind the picture, and prompts share it.
    """

    def sees(self, lmm: Lmm, ids: Tensor) -> Tensor:
        picture = ids == lmm.image_token_id
        both = picture.unsqueeze(2) & picture.unsqueeze(1)
        return (both | torch.ones_like(both).tril()).unsqueeze(1)

    def mask(self, lmm: Lmm, ids: Tensor) -> dict[str, Tensor]:
        whole, at = self.sees(lmm, ids), torch.arange(ids.shape[1], device=ids.device)
        near = at.unsqueeze(1) - at < lmm.model.config.get_text_config().sliding_window
        return {
            "full_attention": _additive(whole, lmm.dtype),
            "sliding_attention": _additive(whole & near, lmm.dtype),
        }


def _additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
    return mask.masked_fill_(~sees, torch.finfo(dtype).min)


class Tiled(Decoding):
    """A picture is several tiles, each encoded by itself."""

    def features(self, lmm: Lmm, pictures: Sequence[PreparedPicture]) -> list[Tensor]:
        found = lmm.model.model.get_image_features(**self.seen(lmm, pictures))
        found = getattr(found, "pooler_output", found)
        if isinstance(found, Tensor):  # [tiles, tokens, d_model]
            tiles = [p.features["pixel_values"].shape[:-3].numel() for p in pictures]
            found = [of.flatten(0, 1) for of in found.split(tiles)]
        return [features.to(lmm.dtype) for features in found]


class OneVision(Decoding):
    """Tiles put together to one picture again, padding cut off, a learnt token behind each line.

    These line ends are among the picture's tokens: edits of features reach them too.
    """

    @contextmanager
    def editing(self, lmm: Lmm, edit: FeatureChange) -> Iterator[None]:
        inner = lmm.model.model
        pack = inner.pack_image_features

        @wraps(pack)
        def edited(*args: Any, **kwargs: Any) -> Any:
            packed, lengths = pack(*args, **kwargs)
            return [edit(features) for features in packed], lengths

        inner.pack_image_features = edited
        try:
            yield
        finally:
            del inner.pack_image_features  # The class's own is there again.
