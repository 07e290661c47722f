"""How rows become the decoder's input, cut where they stop being alike: a strategy for a family.

The prefix is what rows share: the text before the picture and the picture; a suffix is the rest.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache
from transformers.models.mllama.modeling_mllama import _prepare_cross_attention_mask

from lmmsteer.models.extras import cross_attention_mask, mm_token_type_ids
from lmmsteer.models.lmm import Lmm, PreparedPicture


class Decoding:
    """A causal decoder with the picture in its residual stream, as LLaVA's.

    shares_prompts: a prefix serves all prompts of a picture; else the prefix is the whole prompt
    and serves the seeds alone. causal: a prefix's token sees only what stands before it.
    """

    shares_prompts = True
    causal = True

    def run(self, lmm: Lmm, arguments: dict[str, Any], cache: Cache) -> Tensor:
        """The last hidden states, [rows, tokens, d_model]. cache: as the decoder wants one."""
        return self.decoder(lmm)(**arguments, past_key_values=cache, use_cache=True)[0]

    def decoder(self, lmm: Lmm) -> Any:
        """The module that turns embeddings into the last hidden states."""
        return lmm.decoder

    def head(self, lmm: Lmm) -> nn.Module:
        """From last hidden states to logits."""
        return lmm.model.get_output_embeddings()

    def embedding(self, lmm: Lmm) -> nn.Module:
        """From token ids to the decoder's input embeddings."""
        return lmm.model.get_input_embeddings()

    def redirected(self, lmm: Lmm, name: str) -> AbstractContextManager[None]:
        """The decoder calls the attention function registered under a name, in a `with` block."""
        return _named_attention(self.decoder(lmm).config, name)

    def cross_layers(self, lmm: Lmm) -> frozenset[int]:
        """Layers whose keys are the picture's own, not the text's."""
        return frozenset()

    def features(self, lmm: Lmm, pictures: Sequence[PreparedPicture]) -> list[Tensor]:
        """The picture as the decoder takes it, [tokens, d_model] for each; one call for all."""
        pixels = torch.cat([picture.features["pixel_values"] for picture in pictures])
        found = lmm.model.model.get_image_features(pixels.to(lmm.device.torch_device(), lmm.dtype))
        found = getattr(found, "pooler_output", found)  # transformers 4 hands back the features
        return [features.to(lmm.dtype) for features in found]

    def split(self, lmm: Lmm, ids: Sequence[int]) -> int:
        """How many of a row's tokens are its prefix: all up to the last of the picture's."""
        if not self.shares_prompts:
            return len(ids)
        return len(ids) - list(reversed(ids)).index(lmm.image_token_id)

    def prefix(
        self,
        lmm: Lmm,
        ids: Tensor,
        pictures: Sequence[PreparedPicture],
        features: Sequence[Tensor],
    ) -> dict[str, Any]:
        """The decoder's arguments for prefixes of one length. ids: [prefixes, tokens]."""
        where = ids == lmm.image_token_id
        # The placeholder's own embedding is never read, and some vocabularies have none.
        embeds = self.embedding(lmm)(ids.masked_fill(where, 0))
        seen = torch.cat(list(features)).to(embeds.dtype)
        embeds = embeds.masked_scatter(where.unsqueeze(-1), seen)
        return {"inputs_embeds": embeds, "position_ids": self.prefix_positions(lmm, ids, pictures)}

    def prefix_positions(
        self, lmm: Lmm, ids: Tensor, pictures: Sequence[PreparedPicture]
    ) -> Tensor:
        return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)

    def valid(self, lmm: Lmm, picture: PreparedPicture) -> int:
        """Keys of the cross-attention layers that tokens behind the picture may see."""
        return 0

    def start(self, lmm: Lmm, ids: Sequence[int], picture: PreparedPicture) -> int:
        """The position of the first token behind a prefix. ids: the prefix's."""
        return len(ids)

    def behind(self, lmm: Lmm, ids: Tensor, positions: Tensor) -> dict[str, Any]:
        """The decoder's arguments for tokens behind a prefix. ids, positions: [rows, tokens]."""
        return {"input_ids": ids, "position_ids": positions}

    def logits(self, lmm: Lmm, hidden: Tensor) -> Tensor:
        """hidden: [rows, d_model] -> [rows, vocab]."""
        return self.head(lmm)(hidden)


@contextmanager
def _named_attention(config: Any, name: str) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


class Qwen(Decoding):
    """Pictures of any size, three-axis rotary positions (M-RoPE)."""

    def features(self, lmm: Lmm, pictures: Sequence[PreparedPicture]) -> list[Tensor]:
        device = lmm.device.torch_device()
        pixels = torch.cat([p.features["pixel_values"] for p in pictures]).to(device, lmm.dtype)
        grid = torch.cat([p.features["image_grid_thw"] for p in pictures]).to(device)
        found = lmm.model.model.get_image_features(pixels, grid)
        return list(getattr(found, "pooler_output", found))

    def prefix_positions(
        self, lmm: Lmm, ids: Tensor, pictures: Sequence[PreparedPicture]
    ) -> Tensor:
        return self._positions(lmm, ids, pictures).to(ids.device)

    def start(self, lmm: Lmm, ids: Sequence[int], picture: PreparedPicture) -> int:
        return int(self._positions(lmm, torch.tensor([list(ids)]), [picture]).max()) + 1

    def behind(self, lmm: Lmm, ids: Tensor, positions: Tensor) -> dict[str, Any]:
        return {"input_ids": ids, "position_ids": positions.expand(3, *positions.shape)}

    def _positions(self, lmm: Lmm, ids: Tensor, pictures: Sequence[PreparedPicture]) -> Tensor:
        """[3, rows, tokens]; the model's own rule."""
        rule = lmm.model.model.get_rope_index
        grid = torch.cat([picture.features["image_grid_thw"] for picture in pictures])
        given: dict[str, Any] = {"image_grid_thw": grid.to(ids.device)}
        if "mm_token_type_ids" in inspect.signature(rule).parameters:
            given["mm_token_type_ids"] = mm_token_type_ids(ids, lmm.image_token_id, {})
        return rule(ids, **given)[0]


class PaliGemma(Decoding):
    """Picture and prompt attend in both directions, so that only the seeds share; from 1 on."""

    shares_prompts = False
    causal = False

    def prefix_positions(
        self, lmm: Lmm, ids: Tensor, pictures: Sequence[PreparedPicture]
    ) -> Tensor:
        return super().prefix_positions(lmm, ids, pictures) + 1

    def start(self, lmm: Lmm, ids: Sequence[int], picture: PreparedPicture) -> int:
        return len(ids) + 1

    def logits(self, lmm: Lmm, hidden: Tensor) -> Tensor:
        logits = super().logits(lmm, hidden)
        cap = getattr(lmm.model.config.get_text_config(), "final_logit_softcapping", None)
        if cap is None or version("transformers").startswith("4."):  # There nothing caps them.
            return logits
        return torch.tanh(logits / cap) * cap


class Mllama(Decoding):
    """The picture is read by cross-attention layers; its keys do not hang on the text."""

    def cross_layers(self, lmm: Lmm) -> frozenset[int]:
        return frozenset(lmm.model.config.get_text_config().cross_attention_layers)

    def features(self, lmm: Lmm, pictures: Sequence[PreparedPicture]) -> list[Tensor]:
        """Projected states of all tiles, padding too: [tiles * patches, d_model] for each."""
        device, names = lmm.device.torch_device(), lmm.family.features
        given = {name: torch.cat([p.features[name] for p in pictures]).to(device) for name in names}
        given["pixel_values"] = given["pixel_values"].to(lmm.dtype)
        seen = lmm.model.model.vision_model(**given).last_hidden_state
        return list(lmm.projector(seen).flatten(1, -2))

    def prefix(
        self,
        lmm: Lmm,
        ids: Tensor,
        pictures: Sequence[PreparedPicture],
        features: Sequence[Tensor],
    ) -> dict[str, Any]:
        tiles = {"aspect_ratio_mask": torch.cat([_tiles(picture) for picture in pictures])}
        reads = cross_attention_mask(ids.cpu(), lmm.image_token_id, tiles).to(ids.device)
        mask, row_mask = _prepare_cross_attention_mask(reads, _patches(lmm), lmm.dtype)  # type: ignore[arg-type]
        return {
            "input_ids": ids,
            "position_ids": self.prefix_positions(lmm, ids, pictures),
            "cross_attention_states": torch.stack(list(features)),
            "cross_attention_mask": mask,
            "full_text_row_masked_out_mask": row_mask,
        }

    def valid(self, lmm: Lmm, picture: PreparedPicture) -> int:
        """Behind the picture, padding tiles are masked, so their keys need not be kept."""
        return int(_tiles(picture).sum()) * _patches(lmm)


def _tiles(picture: PreparedPicture) -> Tensor:
    return picture.features["aspect_ratio_mask"]


def _patches(lmm: Lmm) -> int:
    return int(lmm.model.model.vision_model.num_patches)


class ClipCap(Decoding):
    """GPT-2 behind a prefix that a mapping network makes of CLIP's embedding."""

    def head(self, lmm: Lmm) -> nn.Module:
        return lmm.model.gpt.lm_head

    def embedding(self, lmm: Lmm) -> nn.Module:
        return lmm.model.gpt.get_input_embeddings()

    def features(self, lmm: Lmm, pictures: Sequence[PreparedPicture]) -> list[Tensor]:
        pixels = torch.cat([picture.features["pixel_values"] for picture in pictures])
        seen = lmm.model.clip(pixel_values=pixels.to(lmm.device.torch_device(), lmm.dtype))
        return list(lmm.projector(seen.image_embeds))


class Blip(Decoding):
    """BERT-like blocks, each with cross-attention to the vision tower.

    Their attention is not dispatched by transformers: while an engine runs, each attention
    module's `forward` is one that calls the engine's. Cross-attention counts as layers of its own.
    """

    def run(self, lmm: Lmm, arguments: dict[str, Any], cache: Cache) -> Tensor:
        return self.decoder(lmm)(**arguments, use_cache=False)[0]

    def decoder(self, lmm: Lmm) -> Any:
        return lmm.model.text_decoder.bert

    def embedding(self, lmm: Lmm) -> nn.Module:
        return lmm.model.text_decoder.get_input_embeddings()

    def head(self, lmm: Lmm) -> nn.Module:
        return lmm.model.text_decoder.cls

    def cross_layers(self, lmm: Lmm) -> frozenset[int]:
        return frozenset(range(lmm.n_layers, 2 * lmm.n_layers))

    def features(self, lmm: Lmm, pictures: Sequence[PreparedPicture]) -> list[Tensor]:
        pixels = torch.cat([picture.features["pixel_values"] for picture in pictures])
        pixels = pixels.to(lmm.device.torch_device(), lmm.dtype)
        return list(lmm.model.vision_model(pixel_values=pixels)[0])

    def split(self, lmm: Lmm, ids: Sequence[int]) -> int:
        return 1  # The decoder's first token; what it reads of the picture is the prompt's affair.

    def prefix(
        self,
        lmm: Lmm,
        ids: Tensor,
        pictures: Sequence[PreparedPicture],
        features: Sequence[Tensor],
    ) -> dict[str, Any]:
        return self._arguments(ids, torch.zeros_like(ids), torch.stack(list(features)))

    def valid(self, lmm: Lmm, picture: PreparedPicture) -> int:
        return sys.maxsize

    def behind(self, lmm: Lmm, ids: Tensor, positions: Tensor) -> dict[str, Any]:
        width = lmm.model.config.vision_config.hidden_size
        nothing = torch.zeros(len(ids), 1, width, device=ids.device, dtype=lmm.dtype)
        return self._arguments(ids, positions, nothing)

    def _arguments(self, ids: Tensor, positions: Tensor, seen: Tensor) -> dict[str, Any]:
        return {
            "input_ids": ids,
            "position_ids": positions,
            "encoder_hidden_states": seen,
            "is_decoder": True,
        }

    @contextmanager
    def redirected(self, lmm: Lmm, name: str) -> Iterator[None]:
        called = AttentionInterface()[name]
        modules: list[Any] = []
        for layer, block in enumerate(lmm.layers):
            for index, part in (
                (layer, block.attention),
                (lmm.n_layers + layer, block.crossattention),
            ):
                module: Any = getattr(part, "self")  # noqa: B009
                module.forward = functools.partial(_blip_attention, module, index, called)
                modules.append(module)
        try:
            with _named_attention(self.decoder(lmm).config, name):  # So that no mask is made.
                yield
        finally:
            for module in modules:
                del module.forward  # The class's own is there again.


def _blip_attention(
    module: Any,
    layer: int,
    called: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    encoder_hidden_states: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> tuple[Tensor, None]:
    """BlipTextSelfAttention.forward with keys and values from the engine's lanes and slots."""
    states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    split = [
        linear(x).unflatten(-1, (module.num_attention_heads, -1)).transpose(1, 2)
        for linear, x in (
            (module.query, hidden_states),
            (module.key, states),
            (module.value, states),
        )
    ]
    out, _nothing = called(SimpleNamespace(layer_idx=layer), *split)
    return out.flatten(2), None


DECODING: dict[str, Decoding] = {
    "llava": Decoding(),
    "qwen2_5_vl": Qwen(),
    "paligemma": PaliGemma(),
    "mllama": Mllama(),
    "clipcap": ClipCap(),
    "blip": Blip(),
}
