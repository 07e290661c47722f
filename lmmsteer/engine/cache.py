"""A KV cache for transformers' generate that does not copy itself at every token.

transformers' DynamicCache joins old and new keys into a new tensor for each layer and token; on a
small model most of the time goes there. Values and order are the same, so answers are too.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

ROOM = 64  # Tokens by which the store grows.


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, in a store with room for what comes next.

    keys, values: views of the store, [rows, heads, tokens, head_dim].
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the new keys and values; return all so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.store = _room(key_states, 0), _room(value_states, 0)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self.store[0].shape[-2]:
            self.store = _grown(self.store[0], start, end), _grown(self.store[1], start, end)
        for store, new in zip(self.store, (key_states, value_states), strict=True):
            store[..., start:end, :] = new
        self.keys, self.values = (store[..., :end, :] for store in self.store)
        return self.keys, self.values


def _room(like: Tensor, tokens: int) -> Tensor:
    rows, heads, _, head_dim = like.shape
    return torch.empty(rows, heads, tokens, head_dim, dtype=like.dtype, device=like.device)


def _grown(store: Tensor, used: int, needed: int) -> Tensor:
    larger = _room(store, needed + ROOM)
    larger[..., :used, :] = store[..., :used, :]
    return larger


def growing_cache(config: Any) -> Cache | None:
    """An empty cache for a model's config, or None where this transformers builds it otherwise.

    Layers that are not plain (sliding windows) stay transformers' own.
    """
    if "config" not in inspect.signature(DynamicCache).parameters:
        return None
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(at) is DynamicLayer else at for at in cache.layers]
    return cache
