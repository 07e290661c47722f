"""What tiny models of all families are made of: tokenizers, weights, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerFast

from tests.tiny import trained_tokenizer

IMAGE = "{% for part in m['content'] %}{% if part['type'] == 'image' %}"
DECODER = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def tokenizer_of(special: tuple[str, ...], bos: str | None, **named: str) -> Any:
    trained = Tokenizer.from_str(trained_tokenizer(400, special, bos))
    names = ["input_ids", "attention_mask"]
    made = PreTrainedTokenizerFast(
        tokenizer_object=trained, bos_token=bos, model_input_names=names, **named
    )
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


def drawn(model: nn.Module, std: float = 0.3) -> Any:
    """The model with weights that tell pictures apart; a fresh one's are too small for that."""
    for weight in model.parameters():
        if weight.ndim >= 2:
            nn.init.normal_(weight, std=std)
    return model


def save(model: Any, folder: Path, eos: int | None, pad: int | None) -> None:
    model.generation_config = transformers.GenerationConfig(eos_token_id=eos, pad_token_id=pad)
    model.save_pretrained(folder)
