"""Tiny random LMMs of the families of 2025, of the real classes: functions for `save_tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from torch import nn

from tests.tiny import image_processor_class
from tests.tiny_parts import DECODER, IMAGE, drawn, save, tokenizer_of

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n" + IMAGE + "PICTURE{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "qwen3_vl": CHATML.replace("PICTURE", "<|vision_start|><|image_pad|><|vision_end|>"),
    "gemma3": (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n"
        + IMAGE
        + "<start_of_image>{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "llava_onevision": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }} " + IMAGE + "<image>{% else %}"
        "{{ '\\n' + part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "internvl": CHATML.replace("PICTURE", "<IMG_CONTEXT>\n"),
    "smolvlm": (
        "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}:" + IMAGE + "<image>"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
}
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def _keep(name: str, folder: Path, tokenizer: Any, pictures: Any) -> None:
    """The processor's parts, as a published folder has them."""
    tokenizer.save_pretrained(folder)
    pictures.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATES[name])


def _decoder(tokenizer: Any, size: dict[str, int], kind: str, **more: Any) -> dict[str, Any]:
    return {
        **DECODER,
        **size,
        "model_type": kind,
        "vocab_size": len(tokenizer),
        "intermediate_size": 2 * size["hidden_size"],
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
        **more,
    }


def _chatml(*special: str, **named: str) -> Any:
    made = tokenizer_of(
        (*CHATML_TOKENS, *special), None, pad_token="<|endoftext|>", eos_token="<|im_end|>", **named
    )
    return made, {token: made.convert_tokens_to_ids(token) for token in special}


def _qwen3_vl(folder: Path, size: dict[str, int]) -> None:
    names = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer, ids = _chatml(*names)
    vision = {
        "depth": 3,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": size["hidden_size"],
        "patch_size": 16,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    }
    config = transformers.Qwen3VLConfig(
        vision_config=vision,
        text_config=_decoder(tokenizer, size, "qwen3_vl_text", head_dim=8, rope_parameters=rope),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    model = drawn(transformers.Qwen3VLForConditionalGeneration(config))
    save(model, folder, tokenizer.eos_token_id, tokenizer.pad_token_id)
    pictures = image_processor_class("qwen2_vl", "Qwen2VLImageProcessor")(
        size={"shortest_edge": 4 * 32 * 32, "longest_edge": 12 * 32 * 32}, patch_size=16
    )
    _keep("qwen3_vl", folder, tokenizer, pictures)


def _gemma3(folder: Path, size: dict[str, int], window: int = 512) -> None:
    special = (
        "<pad>",
        "<eos>",
        "<bos>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<start_of_image>",
        "<end_of_image>",
        "<image_soft_token>",
    )
    named = {"boi_token": special[5], "eoi_token": special[6], "image_token": special[7]}
    tokenizer = tokenizer_of(
        special, "<bos>", pad_token="<pad>", eos_token="<end_of_turn>", extra_special_tokens=named
    )
    text = _decoder(tokenizer, size, "gemma3_text", head_dim=8, query_pre_attn_scalar=8)
    text |= {
        "sliding_window": window,
        "layer_types": ["sliding_attention", "full_attention"] * (size["num_hidden_layers"] // 2)
        + ["sliding_attention"] * (size["num_hidden_layers"] % 2),
    }
    vision = {
        **TOWER,
        "model_type": "siglip_vision_model",
        "image_size": 28,
        "patch_size": 7,
        "vision_use_head": False,
    }
    config = transformers.Gemma3Config(
        vision_config=vision,
        text_config=text,
        mm_tokens_per_image=4,
        boi_token_index=special.index("<start_of_image>"),
        eoi_token_index=special.index("<end_of_image>"),
        image_token_index=special.index("<image_soft_token>"),
        tie_word_embeddings=False,
    )
    model = drawn(transformers.Gemma3ForConditionalGeneration(config))
    nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=2.0)
    for key, weight in model.named_parameters():
        if "layernorm" in key and "post" in key and "language" in key:
            nn.init.normal_(weight, 3.0, 1.0)  # Else the token itself drowns what blocks add.
    save(model, folder, special.index("<end_of_turn>"), 0)
    pictures = image_processor_class("gemma3", "Gemma3ImageProcessor")
    transformers.Gemma3Processor(
        image_processor=pictures(size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        chat_template=TEMPLATES["gemma3"],
        image_seq_length=4,
    ).save_pretrained(folder)


PINPOINTS = [[28, 28], [28, 56], [56, 28], [56, 56], [56, 84]]


def _llava_onevision(folder: Path, size: dict[str, int]) -> None:
    tokenizer, ids = _chatml("<image>", "<video>")
    vision = {
        **TOWER,
        "model_type": "siglip_vision_model",
        "image_size": 28,
        "patch_size": 7,
        "vision_use_head": False,
    }
    config = transformers.LlavaOnevisionConfig(
        vision_config=vision,
        text_config=_decoder(tokenizer, size, "qwen2"),
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio="anyres_max_2",  # So that some pictures are scaled down.
        tie_word_embeddings=False,
    )
    model = drawn(transformers.LlavaOnevisionForConditionalGeneration(config))
    save(model, folder, tokenizer.eos_token_id, tokenizer.pad_token_id)
    pictures = image_processor_class("llava_onevision", "LlavaOnevisionImageProcessor")(
        size={"height": 28, "width": 28}, image_grid_pinpoints=PINPOINTS
    )
    _keep("llava_onevision", folder, tokenizer, pictures)


def _internvl(folder: Path, size: dict[str, int]) -> None:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer, ids = _chatml(*named.values(), extra_special_tokens=named)
    vision = {**TOWER, "image_size": [32, 32], "patch_size": [8, 8]}
    config = transformers.InternVLConfig(
        vision_config=vision,
        text_config=_decoder(tokenizer, size, "qwen2"),
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    model = drawn(transformers.InternVLForConditionalGeneration(config))
    save(model, folder, tokenizer.eos_token_id, tokenizer.pad_token_id)
    pictures = image_processor_class("got_ocr2", "GotOcr2ImageProcessor")(
        size={"height": 32, "width": 32}, max_patches=6
    )
    _keep("internvl", folder, tokenizer, pictures)


def _smolvlm(folder: Path, size: dict[str, int]) -> None:
    tiles = [f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)]
    fake, whole, end = "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"
    special = (*CHATML_TOKENS, end, "<image>", fake, whole, *tiles)
    tokenizer = tokenizer_of(special, None, pad_token="<|im_end|>", eos_token=end)
    tokenizer.bos_token = "<|im_start|>"  # Named, but not put before every text.
    config = transformers.SmolVLMConfig(
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        text_config=_decoder(tokenizer, size, "llama"),
        image_token_id=special.index("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model = drawn(transformers.SmolVLMForConditionalGeneration(config))
    save(model, folder, tokenizer.eos_token_id, tokenizer.pad_token_id)
    pictures = image_processor_class("smolvlm", "SmolVLMImageProcessor")(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 32}
    )
    _keep("smolvlm", folder, tokenizer, pictures)


SAVED = {
    "qwen3_vl": ("Qwen3VLConfig", _qwen3_vl),
    "gemma3": ("Gemma3Config", _gemma3),
    "llava_onevision": ("LlavaOnevisionConfig", _llava_onevision),
    "internvl": ("InternVLConfig", _internvl),
    "smolvlm": ("SmolVLMConfig", _smolvlm),
}
# Those that this version of transformers has.
RECENT = {name: of for name, (known, of) in SAVED.items() if hasattr(transformers, known)}
