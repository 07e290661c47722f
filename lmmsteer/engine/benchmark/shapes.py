"""Random models of published shapes, built from their configs on the device: no download.

Speed depends on shapes and dtype, not on what the weights know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import AutoModelForImageTextToText, GenerationConfig

from lmmsteer.device import Device
from lmmsteer.engine.benchmark.processors import PROCESSORS
from lmmsteer.errors import LmmsteerError
from lmmsteer.models.families import FAMILIES
from lmmsteer.models.lmm import Lmm

IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IMAGE_ID = 3


def _llava(text: dict[str, Any], vision: dict[str, Any]) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    eyes = CLIPVisionConfig(**{"image_size": 336, "patch_size": 14, **vision})
    return LlavaConfig(
        text_config=LlamaConfig(**{"max_position_embeddings": 4096, **text, **IDS}),
        vision_config=eyes,
        image_token_index=IMAGE_ID,
        image_seq_length=(eyes.image_size // eyes.patch_size) ** 2,  # type: ignore[operator]
    )


def _decoder(
    vocab: int, width: int, inner: int, layers: int, heads: int, kv: int
) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
    }


def _tower(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


CLIP_LARGE = _tower(1024, 4096, 24, 16)


def llava_7b() -> Any:
    """LLaVA-1.5-7B: Llama-2-7B, CLIP ViT-L/14 at 336 pixels."""
    return _llava(_decoder(32064, 4096, 11008, 32, 32, 32), CLIP_LARGE)


def llava_13b() -> Any:
    """LLaVA-1.5-13B: Llama-2-13B, CLIP ViT-L/14 at 336 pixels."""
    return _llava(_decoder(32064, 5120, 13824, 40, 40, 40), CLIP_LARGE)


def cpu_155m() -> Any:
    """A LLaVA for processors: 576 picture tokens as the large ones, about 155 M parameters."""
    return _llava(_decoder(32000, 768, 2048, 12, 12, 12), _tower(512, 2048, 6, 8))


def tiny() -> Any:
    """A LLaVA for tests: two layers, 16 picture tokens."""
    small = {**_tower(16, 32, 2, 2), "image_size": 32, "patch_size": 8}
    return _llava(_decoder(800, 32, 64, 2, 4, 2), small)


def llama_3_2_11b() -> Any:
    """Llama-3.2-11B-Vision: 40 layers, 8 of them cross-attention; tiles of 560 pixels."""
    from transformers import MllamaConfig
    from transformers.models.mllama.configuration_mllama import (
        MllamaTextConfig,
        MllamaVisionConfig,
    )

    return MllamaConfig(
        text_config=MllamaTextConfig(**_decoder(128256, 4096, 14336, 40, 32, 8), **IDS),
        vision_config=MllamaVisionConfig(image_size=560),
        image_token_index=IMAGE_ID,
    )


def qwen_7b() -> Any:
    """Qwen2.5-VL-7B: Qwen2.5-7B with rotary positions in three axes."""
    from transformers import Qwen2_5_VLConfig

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    return Qwen2_5_VLConfig(
        text_config={**_decoder(152064, 3584, 18944, 28, 28, 4), **IDS, "rope_parameters": rope},
        vision_config={"depth": 32, "hidden_size": 1280, "out_hidden_size": 3584},
        image_token_id=IMAGE_ID,
        vision_start_token_id=4,
        vision_end_token_id=5,
        video_token_id=6,
    )


def paligemma_3b() -> Any:
    """PaliGemma-3B at 224 pixels: Gemma-2B, SigLIP So400m."""
    from transformers import GemmaConfig, PaliGemmaConfig, SiglipVisionConfig

    text = GemmaConfig(**_decoder(257216, 2048, 16384, 18, 8, 1), head_dim=256, **IDS)
    eyes = SiglipVisionConfig(**_tower(1152, 4304, 27, 16), image_size=224, patch_size=14)
    return PaliGemmaConfig(
        text_config=text, vision_config=eyes, image_token_index=IMAGE_ID, projection_dim=2048
    )


SHAPES: dict[str, tuple[str, Callable[[], Any]]] = {
    "llava-1.5-7b": ("llava", llava_7b),
    "llava-1.5-13b": ("llava", llava_13b),
    "llama-3.2-11b-vision": ("mllama", llama_3_2_11b),
    "qwen2.5-vl-7b": ("qwen2_5_vl", qwen_7b),
    "paligemma-3b": ("paligemma", paligemma_3b),
    "cpu-155m": ("llava", cpu_155m),
    "tiny": ("llava", tiny),
}


def build(shape: str, device: Device, dtype: torch.dtype, seed: int = 0) -> Lmm:
    """A random LMM of a shape with a processor of its own, ready to answer.

    Raises: LmmsteerError for an unknown shape, or a family that lmmsteer cannot steer yet.
    """
    if shape not in SHAPES:
        raise LmmsteerError(
            f"shape={shape} is not a shape lmmsteer knows.", f"Use one of: {', '.join(SHAPES)}"
        )
    family, config_of = SHAPES[shape]
    if family not in FAMILIES:
        raise LmmsteerError(
            f"shape={shape} is of the family {family}, which lmmsteer does not know yet.",
            f"Use a shape of: {', '.join(FAMILIES)}",
        )
    config = config_of()
    return Lmm(
        model=_random(config, device, dtype, seed),
        processor=PROCESSORS[family](config),
        family=FAMILIES[family],
        name=shape,
        revision=None,
        digest=f"random-{shape}-{seed}",
        device=device,
        dtype=dtype,
        eos_ids=(IDS["eos_token_id"],),
    )


def _random(config: Any, device: Device, dtype: torch.dtype, seed: int) -> Any:
    torch.manual_seed(seed)
    named = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    with torch.device(device.torch_device()):
        made = AutoModelForImageTextToText.from_config(config, **{named: dtype})
    model = made.eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        # transformers' own draw is so small at some widths that all answers are one token.
        if weight.ndim >= 2:
            weight.normal_(std=weight[0].numel() ** -0.5)
        elif "gate" in name.rpartition(".")[2]:
            weight.fill_(0.5)  # Fresh gates are closed: the decoder would not see the picture.
    embedding = model.get_input_embeddings().weight
    if model.get_output_embeddings().weight is embedding:
        embedding.mul_(0.1)  # Else a tied head repeats the token that it was shown last.
    model.generation_config = GenerationConfig(do_sample=False)
    return model
