"""Linear layers for a few rows on a processor: one batched product over blocks of the output.

A plain product packs the whole weight before it multiplies, which for a few rows costs as much as
multiplying; small products side by side do not. The same sums over the same inputs, in an order of
their own: as exact as a plain product, not always the same last bits.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BLOCK = 128  # Outputs of one product.
ROWS = 160  # Beyond these, plain products are as fast.


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b. x: [..., inputs]; weight: [outputs, inputs], contiguous."""
    outputs, inputs = weight.shape
    whole = outputs - outputs % BLOCK
    rows = x.numel() // inputs
    if rows > ROWS or whole <= BLOCK:
        return nn.functional.linear(x, weight, bias)
    count = whole // BLOCK
    blocks = weight[:whole].view(count, BLOCK, inputs).transpose(1, 2)
    found = torch.bmm(x.reshape(1, rows, inputs).expand(count, -1, -1), blocks)
    made = found.transpose(0, 1).reshape(rows, whole)
    if whole < outputs:
        rest = nn.functional.linear(x.reshape(rows, inputs), weight[whole:])
        made = torch.cat([made, rest], -1)
    if bias is not None:
        made += bias
    return made.view(*x.shape[:-1], outputs)


@contextmanager
def blocked(module: nn.Module) -> Iterator[None]:
    """A module's linear layers compute in blocks, for the length of a `with` block.

    Plain float32 layers on a processor alone; what hooks see and do is as before.
    """
    layers = [layer for layer in module.modules() if _fits(layer)]
    for layer in layers:
        layer.forward = functools.partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # The class's own is there again.


def _fits(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Linear
        and "forward" not in vars(layer)
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and layer.weight.is_contiguous()
        and layer.out_features > BLOCK
    )


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)
