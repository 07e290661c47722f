"""What stands in the picture's place in a prompt, for families whose processor is put together.

A function for each: from the model, the family's record and what its image processor says of one
picture, to text. As many placeholders stand in it as the vision tower makes features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lmmsteer.models.families import Family

Features = Mapping[str, Any]


def _repeated(count: Callable[[Any, Features], int]) -> Callable[[Any, Family, Features], str]:
    """The placeholder so many times, between what the record puts around it."""

    def shown(model: Any, family: Family, features: Features) -> str:
        before, behind = family.around
        return before + family.image_token * count(model, features) + behind

    return shown


def _merged(model: Any, features: Features) -> int:
    side = model.config.vision_config.spatial_merge_size
    return int(features["image_grid_thw"].prod()) // side**2


def _side(model: Any) -> int:
    """Patches of a tile's side."""
    vision = model.config.vision_config
    sizes = [vision.image_size, vision.patch_size]
    tile, patch = (size[0] if isinstance(size, list | tuple) else size for size in sizes)
    return int(tile // patch)


def _shuffled(model: Any, features: Features) -> int:
    """InternVL: pixel shuffle makes one token of several patches of a tile."""
    return len(features["pixel_values"]) * int(_side(model) * model.config.downsample_ratio) ** 2


def _packed(model: Any, features: Features) -> int:
    """LLaVA-OneVision: what the model's own packing leaves of the tiles, with its line ends."""
    tiles = torch.zeros(features["pixel_values"].shape[1], _side(model) ** 2, 1)
    ratio = model.config.vision_aspect_ratio
    size = features["image_sizes"]
    packed, _ = model.model.pack_image_features([tiles], size, torch.zeros(1), ratio)
    return len(packed[0])


def _split(model: Any, family: Family, features: Features) -> str:
    """SmolVLM: tiles by row and column, then the whole picture; or that alone."""
    rows, columns = (int(features[name][0][0]) for name in ("rows", "cols"))
    tokens = family.image_token * (_side(model) // model.config.scale_factor) ** 2
    fake = "<fake_token_around_image>"
    lines = [
        "".join(f"{fake}<row_{row}_col_{column}>{tokens}" for column in range(1, columns + 1))
        for row in range(1, rows + 1)
    ]
    lead = "\n".join([*lines, "", ""]) if lines else ""
    return f"{lead}{fake}<global-img>{tokens}{fake}"


SHOWN: dict[str, Callable[[Any, Family, Features], str]] = {
    "qwen2_5_vl": _repeated(_merged),
    "qwen3_vl": _repeated(_merged),
    "paligemma": _repeated(lambda model, _: _side(model) ** 2),
    "gemma3": _repeated(lambda model, _: int(model.config.mm_tokens_per_image)),
    "llava_onevision": _repeated(_packed),
    "internvl": _repeated(_shuffled),
    "smolvlm": _split,
    "blip": lambda *_: "",
    "clipcap": _repeated(lambda model, _: int(model.prefix_length)),
}
