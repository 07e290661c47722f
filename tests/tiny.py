"""Tiny random LMMs of the real classes, saved as folders that plain transformers opens.

`save_tiny_llava(folder)` takes about a tenth of a second; `tiny_llava()` is such a folder for the
whole run, `tiny_lmm()` the model loaded from it; `photographs()` are real pictures.
"""

from __future__ import annotations

import atexit
import importlib
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from lmmsteer.models.lmm import Lmm, load

torch.set_num_threads(1)  # Threads cost a tiny model more than they bring.

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: "
    "{% endif %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

TEXT = """A woman stands in a kitchen. The man is a doctor who smiles. She is young, he is old.
Describe the image in as much detail as possible. What is the gender of the person? What is the age?
The person is slim or heavy, with light or dark skin. What are 5 keywords? Pretend you are here.
Is it day or night? Which colour has the wall? The picture shows a room, a street and a garden."""


@cache
def trained_tokenizer(vocab_size: int, special: tuple[str, ...], bos: str | None) -> str:
    """A byte-level BPE tokenizer as JSON: special tokens first, every text begins with bos."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, special.index(bos))]
        )
    return tokenizer.to_str()


def image_processor_class(family: str, name: str) -> Any:
    """transformers' PIL image processor of a family, wherever this version keeps it."""
    try:
        module = importlib.import_module(
            f"transformers.models.{family}.image_processing_pil_{family}"
        )
    except ImportError:
        return getattr(transformers, name)
    return getattr(module, f"{name}Pil")


def tiny_tokenizer(vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with <pad>, <s>, </s>, <image>; begins every text with <s>."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(
            trained_tokenizer(vocab_size, ("<pad>", "<s>", "</s>", "<image>"), "<s>")
        ),
        model_input_names=["input_ids", "attention_mask"],
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": AddedToken("<image>", special=True)},
    )


def save_tiny_llava(
    folder: Path,
    *,
    seed: int = 0,
    d_model: int = 32,
    n_layers: int = 2,
    image_size: int = 32,
    patch_size: int = 8,
    chat_template: str | None = CHAT_TEMPLATE,
) -> Path:
    """Save a random LLaVA (CLIP tower, projector, Llama decoder) with its processor; return folder.

    Its weights are large enough that greedy answers differ between pictures and prompts.
    """
    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=patch_size,
        projection_dim=16,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=d_model,
        intermediate_size=2 * d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(image_size // patch_size) ** 2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        # A fresh model's projector and head are drawn too small to tell pictures apart.
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                torch.nn.init.normal_(weight, std=0.6 if "lm_head" in name else 0.3)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    size = {"height": image_size, "width": image_size}
    LlavaProcessor(
        image_processor=image_processor_class("clip", "CLIPImageProcessor")(
            size={"shortest_edge": image_size}, crop_size=size
        ),
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    ).save_pretrained(folder)
    return folder


@cache
def tiny_llava() -> Path:
    """A folder with a tiny LLaVA of two layers, shared by all tests: read it, never write there."""
    folder = Path(tempfile.mkdtemp(prefix="lmmsteer-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return save_tiny_llava(folder)


@cache
def tiny_lmm() -> Lmm:
    """The model of `tiny_llava()`, loaded once: leave it as it is."""
    return load("tiny", str(tiny_llava()))


@cache
def photographs() -> dict[str, Image.Image]:
    """Real photographs by name, RGB, of different sizes."""
    from skimage import data

    arrays = {
        "astronaut": data.astronaut(),
        "cat": data.chelsea(),
        "coffee": data.coffee(),
        "rocket": data.rocket(),
    }
    return {name: Image.fromarray(np.asarray(array)) for name, array in arrays.items()}
