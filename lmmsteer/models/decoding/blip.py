"""BLIP's captioner, whose attention transformers does not dispatch."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from lmmsteer.models.decoding.base import Decoding, named_attention
from lmmsteer.models.lmm import Lmm, PreparedPicture


class Blip(Decoding):
    """BERT-like blocks, each with cross-attention to the vision tower.

    Their attention is not dispatched by transformers: while an engine runs, each attention
    module's `forward` is one that calls the engine's. Cross-attention counts as layers of its own.
    """

    contrasts = False

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
        return list(lmm.model.vision_model(**self.seen(lmm, pictures))[0])

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
        return int(lmm.model.vision_model.embeddings.num_positions)

    def behind(
        self, lmm: Lmm, ids: Tensor, positions: Tensor, blind: Tensor | None = None
    ) -> dict[str, Any]:
        width = lmm.model.config.vision_config.hidden_size
        nothing = torch.zeros(len(ids), 1, width, device=ids.device, dtype=lmm.dtype)
        return self._arguments(ids, positions, nothing)

    def _arguments(self, ids: Tensor, positions: Tensor, seen: Tensor) -> dict[str, Any]:
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),  # Else it asks the device for padding.
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
            with named_attention(self.decoder(lmm).config, name):  # So that no mask is made.
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
