"""optimum-habana's models made to answer as transformers' own do.

Release 1.21.2 adapts LLaVA, whose language model hands out hidden states for logits, and whose
CLIP tower joins its heads in the wrong order; Llama-3.2-Vision, whose cross-attention reads past
the picture's tiles; and Qwen2.5-VL (gaudi_qwen.py). Each is mended, and held against transformers
in tests/gaudi.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lmmsteer.device import ADAPTED
from lmmsteer.errors import LmmsteerError
from lmmsteer.models import gaudi_qwen
from lmmsteer.models.families import Family

FAMILIES = ("llava", "mllama", "qwen2_5_vl")  # Whose adapted models give transformers' own tokens.
# Modules whose outputs are added to the residual stream, where a block does not call attention and
# MLP as modules, so that hooks on those would never fire.
WRITES = {"llava": ("self_attn.o_proj", "mlp.down_proj")}


def check(family: Family, mode: str | None = None) -> None:
    """Raises: LmmsteerError for a family whose adapted model is not known to answer rightly, and
    for a mode of Gaudi cards that this engine does not work in.
    """
    if mode == "compile":
        raise LmmsteerError(
            "device.mode=compile is not for engine=reference, which runs optimum-habana's generate "
            "in lazy or eager mode.",
            "Use engine=shared, or device.mode=lazy",
        )
    if family.name not in FAMILIES:
        raise LmmsteerError(
            f"optimum-habana's {family.name} models do not give transformers' answers, so "
            "engine=reference does not run them on Gaudi cards.",
            "Use engine=shared, which runs transformers' own models",
        )


def mend(model: Any, family: Family) -> None:
    """Mend a model that was loaded after `device.adapt`.

    Raises: LmmsteerError for a model that is not an adapted one after all.
    """
    if not type(model).__module__.startswith(ADAPTED):
        raise LmmsteerError(
            f"This process had loaded a {family.name} model before optimum-habana's was wanted.",
            "Run cells with engine=reference and cells with engine=shared in commands of their own",
        )
    mends = {"llava": _mend_llava, "mllama": _mend_mllama, "qwen2_5_vl": gaudi_qwen.mend}
    mends[family.name](model)


def _mend_llava(model: Any) -> None:
    width = model.config.text_config.hidden_size

    def headed(_: Any, args: Any, output: Any) -> Any:
        if output.logits.shape[-1] != width:
            return output
        return replace(output, logits=model.lm_head(output.logits))  # A recording keeps its own.

    if model.lm_head.out_features != width:  # Else it could not be told; no vocabulary is so small.
        model.register_forward_hook(headed)
    for module in model.model.vision_tower.modules():
        if type(module).__name__ == "GaudiCLIPAttention":
            module.forward = functools.partial(_clip_attention, module)


def _clip_attention(module: Any, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    """CLIP's self-attention without a mask. hidden_states: [pictures, patches, width]."""
    query, key, value = (
        linear(hidden_states).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for linear in (module.q_proj, module.k_proj, module.v_proj)
    )
    attend = torch.nn.functional.scaled_dot_product_attention
    out = attend(query, key, value, scale=module.scale)
    return module.out_proj(out.transpose(1, 2).flatten(2)), None


def _mend_mllama(model: Any) -> None:
    """A tile's mask is as wide as its patches: optimum-habana's is rounded up to 256 bytes."""
    from transformers.models.mllama import modeling_mllama

    def mask(given: Tensor, num_vision_tokens: int, dtype: Any, token_idx: Any = None) -> Any:
        return plain(given, num_vision_tokens, dtype)

    plain = modeling_mllama._prepare_cross_attention_mask
    home: Any = sys.modules[type(model.model).__module__]
    home._prepare_cross_attention_mask = mask
