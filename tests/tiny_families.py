"""Tiny random LMMs of every family but LLaVA (tests/tiny.py has that), of the real classes.

`save_tiny(name, folder)` saves one with its processor as a user would find it;
`tiny_family_lmm(name)` is the model loaded from such a folder, once for the whole run.
Names are the families', and `paligemma2` and `clipcap_transformer`, which are variants.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from lmmsteer.models.lmm import Lmm, load
from tests.tiny import TEXT, image_processor_class, save_tiny_llava
from tests.tiny_parts import DECODER, IMAGE, drawn, save, tokenizer_of
from tests.tiny_recent import RECENT

NAMES = (
    "mllama",
    "qwen2_5_vl",
    "paligemma",
    "paligemma2",
    "blip",
    "clipcap",
    "clipcap_transformer",
    *RECENT,
)
MLLAMA_TEMPLATE = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n" + IMAGE + "<|image|>{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n" + IMAGE + "<|vision_start|>"
    "<|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny(
    name: str, folder: Path, seed: int = 0, *, d_model: int = 32, n_layers: int = 2
) -> Path:
    """Save a random model of a family with its processor; return the folder.

    Weights are large enough that greedy answers differ between pictures and prompts.
    """
    transformers_logging.disable_progress_bar()
    if name == "llava":
        return save_tiny_llava(folder, seed=seed, d_model=d_model, n_layers=n_layers)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        SAVE[name](folder, {"hidden_size": d_model, "num_hidden_layers": n_layers})
    return folder


@cache
def tiny_family(name: str) -> Path:
    """A folder with a tiny model of a family, shared by all tests: read it, never write there."""
    folder = Path(tempfile.mkdtemp(prefix="lmmsteer-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return save_tiny(name, folder / name)


@cache
def tiny_family_lmm(name: str) -> Lmm:
    """The model of `tiny_family(name)`, loaded once: leave it as it is."""
    return load(name, str(tiny_family(name)))


def _mllama(folder: Path, size: dict[str, int]) -> None:
    special = (
        "<|finetune_right_pad_id|>",
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
    )
    tokenizer = tokenizer_of(
        special, "<|begin_of_text|>", pad_token=special[0], eos_token="<|eot_id|>"
    )
    vocab_size = len(tokenizer)  # The picture's token comes after it, as in the published one.
    tokenizer.add_special_tokens({"additional_special_tokens": [*special, "<|image|>"]})
    # Tiles of 480 pixels: tests' photographs are of 1, 2 and 4 tiles.
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "attention_heads": 2,
        "image_size": 480,
        "patch_size": 120,
        "max_num_tiles": 4,
        "intermediate_layers_indices": [0, 1],
        "vision_output_dim": 48,
        "supported_aspect_ratios": [
            [w, h] for w in (1, 2, 3, 4) for h in (1, 2, 3, 4) if w * h <= 4
        ],
    }
    text = {
        **DECODER,
        **size,
        "vocab_size": vocab_size,
        "intermediate_size": 2 * size["hidden_size"],
        "num_hidden_layers": size["num_hidden_layers"] + 1,
        "cross_attention_layers": [1],
        "rope_scaling": {"rope_type": "default"},
        "bos_token_id": 1,
        "eos_token_id": 5,
        "pad_token_id": 0,
    }
    config = transformers.MllamaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    model = drawn(transformers.MllamaForConditionalGeneration(config))
    for key, weight in model.named_parameters():
        if "gate" in key and weight.numel() == 1:
            nn.init.constant_(weight, 0.7)  # A fresh gate is shut.
    save(model, folder, 5, 0)
    pictures = image_processor_class("mllama", "MllamaImageProcessor")
    transformers.MllamaProcessor(
        image_processor=pictures(size={"height": 480, "width": 480}, max_image_tiles=4),
        tokenizer=tokenizer,
        chat_template=MLLAMA_TEMPLATE,
    ).save_pretrained(folder)


def _qwen2_5_vl(folder: Path, size: dict[str, int]) -> None:
    special = (
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    )
    tokenizer = tokenizer_of(special, None, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": size["hidden_size"],
        "patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    part = size["hidden_size"] // DECODER["num_attention_heads"] // 8
    text = {
        **DECODER,
        **size,
        "vocab_size": len(tokenizer),
        "intermediate_size": 2 * size["hidden_size"],
        "rope_scaling": {
            "type": "mrope",
            "rope_type": "default",
            "mrope_section": [2 * part, part, part],
        },
        "eos_token_id": ids["<|im_end|>"],
        "bos_token_id": ids["<|endoftext|>"],
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }
    config = transformers.Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    model = drawn(transformers.Qwen2_5_VLForConditionalGeneration(config))
    save(model, folder, ids["<|im_end|>"], ids["<|endoftext|>"])
    tokenizer.save_pretrained(folder)
    pictures = image_processor_class("qwen2_vl", "Qwen2VLImageProcessor")
    pictures(min_pixels=4 * 28 * 28, max_pixels=12 * 28 * 28).save_pretrained(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": QWEN_TEMPLATE}))


def _paligemma(folder: Path, size: dict[str, int], kind: str = "gemma") -> None:
    special = ("<pad>", "<eos>", "<bos>", "<image>")
    tokenizer = tokenizer_of(special, "<bos>", pad_token="<pad>", eos_token="<eos>")
    if hasattr(transformers.PaliGemmaProcessor, "tokenizer_class"):  # transformers 4 checks it.
        tokenizer = transformers.GemmaTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>", eos_token="<eos>"
        )
    pictures = image_processor_class("siglip", "SiglipImageProcessor")(
        size={"height": 28, "width": 28}
    )
    pictures.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(image_processor=pictures, tokenizer=tokenizer)
    image = processor.image_token_id
    text = {
        **DECODER,
        **size,
        "model_type": kind,
        "head_dim": 8,
        "vocab_size": len(tokenizer),
        "intermediate_size": 2 * size["hidden_size"],
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    if kind == "gemma2":
        text["sliding_window"] = 24  # Shorter than the prompts.
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
        "projection_dim": size["hidden_size"],
        "vision_use_head": False,
    }
    config = transformers.PaliGemmaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=image,
        projection_dim=size["hidden_size"],
        hidden_size=size["hidden_size"],
    )
    model = drawn(transformers.PaliGemmaForConditionalGeneration(config))
    nn.init.normal_(model.model.multi_modal_projector.linear.weight, std=1.5)
    for key, weight in model.named_parameters():
        if kind == "gemma2" and "layernorm" in key and "post" in key and "language" in key:
            nn.init.constant_(weight, 3.0)  # Else the token itself drowns what blocks add to it.
    save(model, folder, 1, 0)
    processor.save_pretrained(folder)


def _blip(folder: Path, size: dict[str, int]) -> None:
    words = sorted({word.strip(".,?").lower() for word in TEXT.split()} - {""})
    letters = sorted({letter for word in words for letter in word})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = dict.fromkeys([*special, *letters, *(f"##{at}" for at in letters), *words, ".", ","])
    (folder / "vocab.txt").write_text("\n".join(vocab))
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    text = {
        **size,
        "vocab_size": len(vocab) + 2,
        "encoder_hidden_size": 16,
        "intermediate_size": 2 * size["hidden_size"],
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "bos_token_id": len(vocab),  # [DEC], beyond the tokenizer's own, as in the published one.
        "sep_token_id": 3,
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = transformers.BlipConfig(text_config=text, vision_config=vision)
    model = drawn(transformers.BlipForConditionalGeneration(config))
    for layer in model.text_decoder.bert.encoder.layer:
        nn.init.normal_(layer.crossattention.output.dense.weight, std=1.0)
    save(model, folder, 2, 0)
    pictures = image_processor_class("blip", "BlipImageProcessor")
    transformers.BlipProcessor(
        image_processor=pictures(size={"height": 32, "width": 32}), tokenizer=tokenizer
    ).save_pretrained(folder)


def _clipcap(folder: Path, size: dict[str, int], kind: str = "mlp") -> None:
    d_model, clip_width, prefix = size["hidden_size"], 24, 10
    _clip(folder / "clip", clip_width)
    tokenizer = tokenizer_of(("<|endoftext|>",), None, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder / "gpt2")
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=d_model,
        n_layer=size["num_hidden_layers"],
        n_head=4,
        n_positions=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    config.save_pretrained(folder / "gpt2")
    gpt = drawn(transformers.GPT2LMHeadModel(config))
    made = MAPPERS[kind](d_model, clip_width, prefix)
    weights = {f"gpt.{key}": weight.clone() for key, weight in gpt.state_dict().items()}
    weights |= {f"clip_project.{key}": weight for key, weight in made.items()}
    weights["gpt.transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)  # Old files have it.
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "clipcap"}')


def _clip(folder: Path, width: int) -> None:
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = transformers.CLIPConfig(
        vision_config={**shape, "image_size": 32, "patch_size": 8},
        text_config={**shape, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2},
        projection_dim=width,
    )
    drawn(transformers.CLIPModel(config), 0.5).save_pretrained(folder)
    pictures = image_processor_class("clip", "CLIPImageProcessor")
    crop = {"height": 32, "width": 32}
    pictures(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)


def _mlp_mapper(d_model: int, clip: int, prefix: int) -> dict[str, Tensor]:
    inner, outer = d_model * prefix // 2, d_model * prefix
    return {
        "model.0.weight": torch.randn(inner, clip) * 0.3,
        "model.0.bias": torch.randn(inner) * 0.3,
        "model.2.weight": torch.randn(outer, inner) * 0.3,
        "model.2.bias": torch.randn(outer) * 0.3,
    }


def _transformer_mapper(d_model: int, clip: int, prefix: int) -> dict[str, Tensor]:
    shapes = {"linear.weight": (4 * d_model, clip), "linear.bias": (4 * d_model,)}
    shapes["prefix_const"] = (prefix, d_model)
    for layer in ("0", "1"):
        shapes |= {
            f"transformer.layers.{layer}.{key}": shape
            for key, shape in {
                "norm1.weight": (d_model,),
                "norm1.bias": (d_model,),
                "attn.to_queries.weight": (d_model, d_model),
                "attn.to_keys_values.weight": (2 * d_model, d_model),
                "attn.project.weight": (d_model, d_model),
                "attn.project.bias": (d_model,),
                "norm2.weight": (d_model,),
                "norm2.bias": (d_model,),
                "mlp.fc1.weight": (2 * d_model, d_model),
                "mlp.fc1.bias": (2 * d_model,),
                "mlp.fc2.weight": (d_model, 2 * d_model),
                "mlp.fc2.bias": (d_model,),
            }.items()
        }
    drawn = {key: torch.randn(shape) * 0.3 for key, shape in shapes.items()}
    drawn["linear.weight"] *= 4
    return drawn | {key: w + 1 for key, w in drawn.items() if ".norm" in key and "weight" in key}


MAPPERS = {"mlp": _mlp_mapper, "transformer": _transformer_mapper}
SAVE = {
    "mllama": _mllama,
    "qwen2_5_vl": _qwen2_5_vl,
    "paligemma": _paligemma,
    "paligemma2": lambda folder, size: _paligemma(folder, size, "gemma2"),
    "blip": _blip,
    "clipcap": _clipcap,
    "clipcap_transformer": lambda folder, size: _clipcap(folder, size, "transformer"),
    **RECENT,
}
