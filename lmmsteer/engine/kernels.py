"""The two halves of a decode step's attention by a card's own kernels, where they prove right.

A kernel is used after `proven` has compared it with the plain computation on this very card; where
it fails or is not there, the plain one stands in. Needs no card to be imported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lmmsteer.engine.attention import fold, half, is_capped, length_bias

Pair = tuple[Tensor, Tensor]
Heads = tuple[int, int]  # Of queries, and of keys and values.
log = logging.getLogger(__name__)
TOLERANCE = 0.02  # bfloat16 keeps 8 bits; outputs of the probe are of order one.


def flash_half(query: Tensor, key: Tensor, value: Tensor) -> Pair:
    """`half` without a mask by FlashAttention; shapes as there."""
    op = torch.ops.aten._scaled_dot_product_flash_attention
    out, lse, *_ = op(query, key, value, 0.0, False, False, scale=1.0)
    return out, lse.unsqueeze(-1)


def varlen_half(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> Pair:
    """One query a row over as many keys as the row has; no key behind them is read.

    query: [rows, heads, 1, head_dim]; key, value: [rows, kv_heads, room, head_dim], kept token by
    token in memory; lengths: [rows]. Result as `half`, for [rows, heads, 1, ...].
    """
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    rows, heads, _, head_dim = query.shape
    kv_heads, room = key.shape[1:3]
    flat = [x.transpose(1, 2).reshape(rows * room, kv_heads, head_dim) for x in (key, value)]
    starts = torch.arange(rows + 1, device=query.device, dtype=torch.int32)
    out, lse = varlen_attn(
        query.squeeze(2),
        flat[0],
        flat[1],
        starts,
        starts * room,
        1,
        room,
        return_aux=AuxRequest(lse=True),
        scale=1.0,
        enable_gqa=heads != kv_heads,
        seqused_k=lengths.to(torch.int32),
        num_splits=1,
    )
    lse = lse.T if lse.shape == (heads, rows) else lse
    return out.unsqueeze(2), lse.reshape(rows, heads, 1, 1)


def usable(name: str, query: Tensor, key: Tensor) -> bool:
    """Whether a kernel may stand in for `half` here. query, key: as models make them."""
    if query.device.type != "cuda" or is_capped():
        return False
    heads = (query.shape[1], key.shape[1])
    return proven(name, query.device, query.dtype, heads, query.shape[-1])


@cache
def proven(
    name: str, device: torch.device, dtype: torch.dtype, heads: Heads, head_dim: int
) -> bool:
    """Whether a kernel of this module gives what `half` does on this device; else it is logged.

    heads: of queries, and of keys and values.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    trial: Callable[..., float] = {"flash": _try_flash, "varlen": _try_varlen}[name]
    try:
        gap = trial(device, dtype, heads, head_dim)
    except Exception as error:  # Whatever a kernel raises, the plain computation serves.
        log.warning("%s attention is not used on this card: %s", name, error)
        return False
    if not gap <= TOLERANCE:
        log.warning("%s attention is not used on this card: off by %.3g", name, gap)
        return False
    return True


def _try_flash(device: torch.device, dtype: torch.dtype, heads: Heads, head_dim: int) -> float:
    folded, kv_heads = 16 * heads[0] // heads[1], heads[1]
    query, key, value = _drawn(
        device, dtype, (3, kv_heads, folded, head_dim), (3, kv_heads, 77, head_dim)
    )
    return _gap(flash_half(query, key, value), half(query, key, value, None))


def _try_varlen(device: torch.device, dtype: torch.dtype, heads: Heads, head_dim: int) -> float:
    query, key, value = _drawn(
        device, dtype, (5, heads[0], 1, head_dim), (5, heads[1], 96, head_dim)
    )
    key, value = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (key, value))
    lengths = torch.tensor([1, 96, 17, 64, 65], device=device)
    found = varlen_half(query, key, value, lengths)
    plain = half(fold(query, heads[1]), key, value, length_bias(lengths, 96))
    return _gap(found, (plain[0].reshape(found[0].shape), plain[1].reshape(found[1].shape)))


def _drawn(device: torch.device, dtype: torch.dtype, query: Any, key: Any) -> list[Tensor]:
    generator = torch.Generator("cpu").manual_seed(0)
    shapes = (query, key, key)
    drawn = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    drawn[0] *= query[-1] ** -0.5
    return drawn


def _gap(found: Pair, expected: Pair) -> float:
    return max(
        (a.float() - b.float()).abs().max().item() for a, b in zip(found, expected, strict=True)
    )
