"""ClipCap: a CLIP image embedding, mapped to a prefix of GPT-2's input embeddings.

Opens the published checkpoints' state dicts (lmmsteer/models/clipcap_files.py has the layout).
Source: Mokady et al. 2021 (arXiv 2111.09734); `rmokady/CLIP_prefix_caption`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPVisionModelWithProjection,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
)

from lmmsteer.models import clipcap_files, files
from lmmsteer.models.blip import positions

HEADS = 8  # Of the transformer mapper; the published checkpoints do not store it.


class MlpMapper(nn.Module):
    """Linear, tanh, linear: [rows, clip] -> [rows, prefix, d_model]."""

    def __init__(self, weights: dict[str, Tensor], d_model: int) -> None:
        super().__init__()
        (inner, clip), (outer, _) = weights["model.0.weight"].shape, weights["model.2.weight"].shape
        self.d_model = d_model
        self.prefix_length = outer // d_model
        self.model = nn.Sequential(nn.Linear(clip, inner), nn.Tanh(), nn.Linear(inner, outer))

    def forward(self, embedding: Tensor) -> Tensor:
        return self.model(embedding).view(len(embedding), self.prefix_length, self.d_model)


class _Attention(nn.Module):
    def __init__(self, d_model: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_queries = nn.Linear(d_model, d_model, bias=bias)
        self.to_keys_values = nn.Linear(d_model, 2 * d_model, bias=bias)
        self.project = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        keys, values = self.to_keys_values(x).chunk(2, dim=-1)
        split = [
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [rows, heads, tokens, head_dim]
            for part in (self.to_queries(x), keys, values)
        ]
        mixed = nn.functional.scaled_dot_product_attention(*split)
        return self.project(mixed.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, d_model: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d_model, inner)
        self.fc2 = nn.Linear(inner, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x).relu())


class _Block(nn.Module):
    def __init__(self, d_model: int, inner: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = _Attention(d_model, heads, bias)
        self.mlp = _Mlp(d_model, inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Blocks(nn.Module):
    def __init__(self, blocks: list[_Block]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(blocks)


class TransformerMapper(nn.Module):
    """Learned constants that attend to the embedding: [rows, clip] -> [rows, prefix, d_model]."""

    def __init__(self, weights: dict[str, Tensor], d_model: int, heads: int) -> None:
        super().__init__()
        outer, clip = weights["linear.weight"].shape
        inner = len(weights["transformer.layers.0.mlp.fc1.weight"])
        bias = "transformer.layers.0.attn.to_queries.bias" in weights
        depth = len({key.split(".")[2] for key in weights if key.startswith("transformer.layers.")})
        self.d_model = d_model
        self.prefix_length = len(weights["prefix_const"])
        self.linear = nn.Linear(clip, outer)
        self.prefix_const = nn.Parameter(torch.zeros(self.prefix_length, d_model))
        self.transformer = _Blocks([_Block(d_model, inner, heads, bias) for _ in range(depth)])

    def forward(self, embedding: Tensor) -> Tensor:
        seen = self.linear(embedding).view(len(embedding), -1, self.d_model)
        x = torch.cat([seen, self.prefix_const.expand(len(embedding), -1, -1)], dim=1)
        for block in self.transformer.layers:
            x = block(x)
        return x[:, seen.shape[1] :]


class ClipCap(nn.Module):
    """CLIP's vision tower, the mapping network, GPT-2. input_ids hold the prefix's placeholders.

    CLIP's projected embedding is not normalised, as in the published inference.
    """

    def __init__(self, clip: Any, mapper: MlpMapper | TransformerMapper, gpt: Any) -> None:
        super().__init__()
        self.clip = clip
        self.clip_project = mapper
        self.gpt = gpt
        self.config = gpt.config
        self.prefix_length = mapper.prefix_length

    @property
    def generation_config(self) -> GenerationConfig:
        return self.gpt.generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self.gpt.generation_config = config

    def embed(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Tensor:
        """GPT-2's input embeddings, [rows, tokens, d_model]: the prefix, then the prompt's."""
        prefix = self.clip_project(self.clip(pixel_values=pixel_values).image_embeds)
        embeds = self.gpt.get_input_embeddings()(input_ids)
        place = positions(attention_mask)
        holds = (place < self.prefix_length) & attention_mask.bool()  # [rows, tokens]
        return embeds.masked_scatter(holds.unsqueeze(-1), prefix.to(embeds.dtype))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor, **kwargs: Any
    ) -> Any:
        """GPT-2's output, logits [rows, tokens, vocab] among it."""
        return self.gpt(
            inputs_embeds=self.embed(input_ids, attention_mask, pixel_values),
            attention_mask=attention_mask,
            position_ids=positions(attention_mask),
            **kwargs,
        )

    def generate(
        self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor, **kwargs: Any
    ) -> Any:
        """The ids given and the new ones, like every other model's."""
        return self.gpt.generate(
            input_ids=input_ids,
            inputs_embeds=self.embed(input_ids, attention_mask, pixel_values),
            attention_mask=attention_mask,
            **kwargs,
        )

    @classmethod
    def from_pretrained(
        cls, folder: Path, torch_dtype: torch.dtype, **kwargs: Any
    ) -> tuple[ClipCap, dict[str, Any]]:
        """The model of a folder, and which of its weights the folder lacks."""
        vision: Any = CLIPVisionModelWithProjection
        config = _vision_config(folder / "clip")
        clip, info = vision.from_pretrained(
            folder / "clip", config=config, torch_dtype=torch_dtype, **kwargs
        )
        weights = load_file(clipcap_files.weights(folder))
        gpt = GPT2LMHeadModel(GPT2Config.from_pretrained(folder / "gpt2"))
        model = cls(clip, _mapper(weights, gpt.config.n_embd, files.config(folder)), gpt)
        absent = model.load_state_dict(weights, strict=False).missing_keys
        gpt.tie_weights()
        gpt.generation_config.eos_token_id = _ends(folder)
        absent = [key for key in absent if not key.startswith("clip.") and "lm_head" not in key]
        lacks = {"missing_keys": [*info["missing_keys"], *absent]}
        return model.to(torch_dtype), {**lacks, "mismatched_keys": info["mismatched_keys"]}


def _vision_config(folder: Path) -> Any:
    """Of a vision tower, or of the whole CLIP, whose own projection_dim is the one that counts."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if not hasattr(config, "vision_config"):
        return config
    config.vision_config.projection_dim = config.projection_dim
    return config.vision_config


def _mapper(weights: dict[str, Tensor], d_model: int, config: dict[str, Any]) -> Any:
    start = "clip_project."
    own = {key.removeprefix(start): w for key, w in weights.items() if key.startswith(start)}
    if "model.0.weight" in own and "model.2.weight" in own:
        return MlpMapper(own, d_model)
    if "prefix_const" in own and "transformer.layers.0.mlp.fc1.weight" in own:
        return TransformerMapper(own, d_model, int(config.get("heads", HEADS)))
    raise ValueError("clip_project.* is neither the published MLP nor the transformer mapper")


def _ends(folder: Path) -> list[int]:
    """Captions end at the first full stop, as in the published inference."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "gpt2", local_files_only=True)
    stop = tokenizer(".", add_special_tokens=False)["input_ids"][0]
    return [stop, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])]
