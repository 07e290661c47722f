"""Attention of rows that share a prefix: one half reads the prefix once for all its rows.

transformers' models call `attention` (registered under NAME) instead of their own; what it does
follows from the work at hand (`working`): a prefix, suffixes behind prefixes, or one token a row.
Source of the split: Juravsky et al. 2024, Hydragen (arXiv 2402.05099).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from lmmsteer.errors import LmmsteerError

NAME = "lmmsteer_shared"
CHUNK = 128  # Keys in a chunk of strict mode.


class Work(Protocol):
    """What one call of the decoder is for; it holds keys and values, and where they go.

    span: the most keys that a row may come to read.
    """

    span: int

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """query: [rows, heads, tokens, head_dim], scaled; key, value: [rows, kv_heads, ...]."""
        ...


class Enough(Exception):
    """A work has all it wants of the decoder; what is left of the pass is not computed."""


class _Current(threading.local):
    work: Work | None = None
    softcap: float | None = None


_current = _Current()


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls. Returns [rows, tokens, heads, head_dim].

    Raises: LmmsteerError for a sliding window that is shorter than a row.
    """
    work = _current.work
    if work is None:
        raise RuntimeError("the shared engine's attention was called outside the engine")
    if sliding_window is not None and work.span > sliding_window:
        raise LmmsteerError(
            f"A row of {work.span} tokens is longer than the model's window of {sliding_window}, "
            "which the shared engine does not cut to.",
            "Use engine=reference, or a smaller sampling.max_new_tokens",
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with capped(softcap):
        out = work.attend(module.layer_idx, query * scale, key, value, attention_mask)
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, attention)


@contextmanager
def working(work: Work) -> Iterator[None]:
    """Attention does this work, for the length of a `with` block."""
    before, _current.work = _current.work, work
    try:
        yield
    finally:
        _current.work = before


@contextmanager
def capped(softcap: float | None) -> Iterator[None]:
    """Scores s become cap * tanh(s / cap) before the mask, as Gemma 2 wants them."""
    _current.softcap = softcap
    try:
        yield
    finally:
        _current.softcap = None


def is_capped() -> bool:
    return _current.softcap is not None


def half(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T + bias) v and the log of the softmax's sum.

    query: [n, kv_heads, queries, head_dim], scaled; key, value: [n, kv_heads, keys, head_dim];
    bias: broadcastable to [n, kv_heads, queries, keys], 0 or -inf. chunk: keys at a time, merged
    in order; a chunk that is masked throughout changes no bit, so more keys never do.
    Returns [n, kv_heads, queries, head_dim] and [n, kv_heads, queries, 1] float32.
    """
    if chunk is None:
        return _whole(query, key, value, bias)
    out, lse = _whole(query, key[..., :chunk, :], value[..., :chunk, :], _part(bias, 0, chunk))
    for at in range(chunk, key.shape[-2], chunk):
        stop = at + chunk
        part = _whole(query, key[..., at:stop, :], value[..., at:stop, :], _part(bias, at, stop))
        out, lse = merge(out, lse, *part), torch.logaddexp(lse, part[1])
    return out, lse


def _part(bias: Tensor | None, start: int, stop: int) -> Tensor | None:
    return None if bias is None else bias[..., start:stop]


def _whole(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = torch.matmul(query, key.transpose(-1, -2)).float()
    if (cap := _current.softcap) is not None:
        scores = torch.tanh(scores / cap).mul_(cap)
    if bias is not None:
        scores = scores.add_(bias)
    top = scores.amax(-1, keepdim=True).clamp_(min=-1e30)  # all masked: no NaN, a sum of zero
    weights = scores.sub_(top).exp_()
    total = weights.sum(-1, keepdim=True)
    out = torch.matmul(weights.to(value.dtype), value)
    lse = total.clamp_(min=1e-37).log() + top  # all masked: finite, lest merging make a NaN
    return out / total.to(out.dtype), lse


def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> Tensor:
    """The attention over both halves' keys, from each half's output and log-sum-exp.

    w = e^lse / (e^lse + e^lse'); w o + (1 - w) o'. Shapes as `half` returns them.
    """
    weight = torch.sigmoid(other_lse - lse).to(out.dtype)
    return torch.lerp(out, other, weight)


class Groups:
    """Which rows share which lane: rows as [lanes, width], and the way back.

    lane_of: the lane of each row, -1 for a row that has none. width: rows of a lane (None: of the
    fullest). Empty places are filled up with row 0, whose result there is thrown away; a row
    without a lane gets some other row's.
    """

    def __init__(
        self, lane_of: Sequence[int], lanes: int, width: int | None, device: torch.device
    ) -> None:
        self.lanes = lanes
        members: list[list[int]] = [[] for _ in range(lanes)]
        for row, lane in enumerate(lane_of):
            if lane >= 0:
                members[lane].append(row)
        self.width = max(map(len, members)) if width is None else width
        back = [0] * len(lane_of)
        place = [0] * (lanes * self.width)
        for lane, rows in enumerate(members):
            for at, row in enumerate(rows, lane * self.width):
                place[at], back[row] = row, at
        self.rows = torch.tensor(place, device=device)
        self.back = torch.tensor(back, device=device)

    def gather(self, query: Tensor, kv_heads: int) -> Tensor:
        """[rows, heads, tokens, head_dim] -> [lanes, kv_heads, width * per * tokens, head_dim]."""
        tokens, head_dim = query.shape[2:]
        grouped = query.index_select(0, self.rows)
        grouped = grouped.view(self.lanes, self.width, kv_heads, -1, tokens, head_dim)
        return grouped.transpose(1, 2).reshape(self.lanes, kv_heads, -1, head_dim)

    def scatter(self, result: Tensor, heads: int, tokens: int) -> Tensor:
        """The way back: [lanes, kv_heads, queries, x] -> [rows, heads, tokens, x]."""
        lanes, kv_heads, _, x = result.shape
        parted = result.view(lanes, kv_heads, self.width, heads // kv_heads, tokens, x)
        parted = parted.transpose(1, 2).reshape(lanes * self.width, heads, tokens, x)
        return parted.index_select(0, self.back)


def fold(query: Tensor, kv_heads: int) -> Tensor:
    """[rows, heads, tokens, head_dim] -> [rows, kv_heads, per * tokens, head_dim]."""
    rows, _, _, head_dim = query.shape
    return query.reshape(rows, kv_heads, -1, head_dim)


def length_bias(lengths: Tensor, keys: int) -> Tensor:
    """0 where a key is there, -inf behind a row's length. [rows] -> [rows, 1, 1, keys]."""
    there = torch.arange(keys, device=lengths.device) < lengths[:, None]
    bias = torch.zeros(there.shape, device=lengths.device).masked_fill_(~there, -torch.inf)
    return bias[:, None, None]


def causal_bias(tokens: int, per: int, device: torch.device) -> Tensor:
    """The causal mask of a suffix for folded queries. [1, 1, per * tokens, tokens]."""
    return (
        torch.full((tokens, tokens), -torch.inf, device=device).triu_(1).repeat(per, 1)[None, None]
    )
