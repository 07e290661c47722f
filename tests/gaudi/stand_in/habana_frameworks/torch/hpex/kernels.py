"""The fused kernels' mathematics, plainly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class FusedSDPA:
    @staticmethod
    def apply(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        dropout: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        *_: Any,
    ) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            is_causal=bool(is_causal),
            scale=scale,
            enable_gqa=query.shape[-3] != key.shape[-3],
        )
