"""What one call of the decoder is for: a prefix, suffixes behind prefixes, or one token a row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmmsteer.engine import kernels
from lmmsteer.engine.attention import (
    Enough,
    Groups,
    causal_bias,
    fold,
    half,
    is_capped,
    length_bias,
    merge,
)
from lmmsteer.engine.store import Lanes, Own, Pair


class PrefixWork:
    """Prefill of prefixes of one length, kept in lanes.

    causal: whether a token sees only what stands before it, or the whole prefix; sees: what it
    sees where that is neither, [prefixes, 1, tokens, tokens]. valid: of the
    keys of cross-attention layers, how many later tokens may see (they stand first), a number for
    each prefix. span: how long a row behind it may come to be, so that a model's window that is too
    short is found at once. last: the layer with which the pass ends (`Enough`), since of the last
    layer only keys and values are wanted; None where the last hidden states are. blind: prefixes
    of contrast streams whose picture is left out, so that cross-attention layers read nothing.
    """

    def __init__(
        self,
        lanes: Lanes,
        into: Sequence[int],
        *,
        causal: bool = True,
        sees: Tensor | None = None,
        cross_layers: frozenset[int] = frozenset(),
        valid: Sequence[int] = (),
        span: int = 0,
        last: int | None = None,
        blind: bool = False,
    ) -> None:
        self.lanes, self.into, self.causal, self.last = lanes, into, causal, last
        self.blind, self.sees = blind, sees
        self.span = span or lanes.longest(into)
        self.cross_layers, self.valid = cross_layers, valid

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        causal = self.causal and layer not in self.cross_layers and self.sees is None
        if layer in self.cross_layers and self.blind:
            self.lanes.cross[layer][torch.tensor(self.into, device=key.device)] = 0
            return torch.zeros_like(query)
        if layer in self.cross_layers:
            self._keep_cross(layer, key, value)
        else:
            mask = self.sees
            self.lanes.write(layer, self.into, key, value)
        if layer == self.last:
            raise Enough
        if is_capped():
            return self._plain(query, key, value, layer)
        per = query.shape[1] // key.shape[1]
        if per > 1:
            key, value = key.repeat_interleave(per, 1), value.repeat_interleave(per, 1)
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(query, key, value, attn_mask=mask, is_causal=causal, scale=1.0)

    def _plain(self, query: Tensor, key: Tensor, value: Tensor, layer: int) -> Tensor:
        """Scores that are capped, which torch's own attention cannot do."""
        rows, heads, tokens, head_dim = query.shape
        per = heads // key.shape[1]
        bias = None
        if layer not in self.cross_layers and self.sees is not None:
            hidden = torch.zeros(self.sees.shape, device=query.device)
            bias = hidden.masked_fill_(~self.sees, -torch.inf).repeat(1, 1, per, 1)
        elif layer not in self.cross_layers and self.causal:
            bias = causal_bias(tokens, per, query.device)
        out, _ = half(fold(query, key.shape[1]), key, value, bias)
        return out.reshape(rows, heads, tokens, head_dim)

    def _keep_cross(self, layer: int, key: Tensor, value: Tensor) -> None:
        kept = min(max(self.valid), key.shape[2])
        self.lanes.write(layer, self.into, key[:, :, :kept], value[:, :, :kept])
        if layer not in self.lanes.cross:
            self.lanes.cross[layer] = torch.ones_like(self.lanes.lengths)
        valid = torch.tensor(self.valid, device=key.device).clamp(max=kept)
        self.lanes.cross[layer][torch.tensor(self.into, device=key.device)] = valid


class _Behind:
    """Rows behind prefixes: the half that reads each lane once for all its rows."""

    def __init__(
        self, lanes: Lanes, picked: slice | Tensor, groups: Groups, keys: int, chunk: int | None
    ) -> None:
        self.lanes, self.picked, self.groups, self.chunk = lanes, picked, groups, chunk
        self.keys = keys  # The longest prefix among them, in the self-attention layers.
        self.span = keys
        self._bias: dict[int, Tensor | None] = {}

    def shared(self, layer: int, query: Tensor) -> Pair:
        key, value = self.lanes.kept[layer]
        keys = key.shape[2] if layer in self.lanes.cross or self.chunk else self.keys
        key, value = key[self.picked, :, :keys], value[self.picked, :, :keys]
        grouped = self.groups.gather(query, key.shape[1])
        kind = -1 if layer in self.lanes.cross else 0
        if kind not in self._bias:
            self._bias[kind] = self.lanes.bias(layer, self.picked, keys)
        bias = self._bias[kind]
        if bias is None and self.chunk is None and kernels.usable("flash", query, key):
            out, lse = kernels.flash_half(grouped, key, value)
        else:
            out, lse = half(grouped, key, value, bias, self.chunk)
        _, heads, tokens, _ = query.shape
        return self.groups.scatter(out, heads, tokens), self.groups.scatter(lse, heads, tokens)


class SuffixWork(_Behind):
    """Prefill of suffixes of one (padded) length behind their prefixes; `kept` holds their keys."""

    def __init__(
        self,
        lanes: Lanes,
        picked: slice | Tensor,
        groups: Groups,
        keys: int,
        chunk: int | None = None,
    ) -> None:
        super().__init__(lanes, picked, groups, keys, chunk)
        self.kept: dict[int, Pair] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        out, lse = self.shared(layer, query)
        if layer in self.lanes.cross:
            return out
        self.kept[layer] = (key, value)
        rows, heads, tokens, head_dim = query.shape
        kv_heads = key.shape[1]
        bias = causal_bias(tokens, heads // kv_heads, query.device)
        own, own_lse = half(fold(query, kv_heads), key, value, bias)
        shape = (rows, heads, tokens)
        return merge(out, lse, own.reshape(*shape, head_dim), own_lse.reshape(*shape, 1))


class DecodeWork(_Behind):
    """One token for each of the first rows, behind their prefixes and their own tokens."""

    def __init__(
        self,
        lanes: Lanes,
        picked: slice | Tensor,
        groups: Groups,
        keys: int,
        own: Own,
        chunk: int | None = None,
    ) -> None:
        super().__init__(lanes, picked, groups, keys, chunk)
        self.own, self.longest = own, own.longest
        self.span = keys + own.longest
        self._own_bias: Tensor | None = None

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        out, lse = self.shared(layer, query)
        if layer in self.lanes.cross:
            return out
        self.own.append(layer, key, value)
        rows, heads, _, head_dim = query.shape
        shape = (rows, heads, 1)
        if self.chunk is None and kernels.usable("varlen", query, key):
            lengths = self.own.lengths[:rows] + 1
            own, own_lse = kernels.varlen_half(query, *self.own.kept[layer], lengths)
            return merge(out, lse, own, own_lse)
        keys, values = (x[:rows, :, : self.longest] for x in self.own.kept[layer])
        if self._own_bias is None:
            self._own_bias = length_bias(self.own.lengths[:rows] + 1, self.longest)
        own, own_lse = half(fold(query, key.shape[1]), keys, values, self._own_bias, self.chunk)
        return merge(out, lse, own.reshape(*shape, head_dim), own_lse.reshape(*shape, 1))
