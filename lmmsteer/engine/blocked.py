"""Linear layers for a few rows on a processor: one batched product over blocks of the output.

A plain product packs the whole weight before it multiplies, which for a few rows costs as much as
multiplying; small products side by side do not. The same sums over the same inputs, in an order of
their own: as exact as a plain product, not always the same last bits. Where there is memory for it,
the weights are kept a second time as such products read them (`Copies`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BLOCK = 128  # Outputs of one product of a weight as it lies.
WIDTHS = (48, 32)  # Outputs of one product of a copy: the first that divides them, else the last.
ROWS = 160  # Beyond these, plain products are as fast.
FEW = 2  # Up to these, too: they pack nothing.


class Copies:
    """Weights laid out for products of a few rows: [blocks, inputs, outputs of a block].

    Made when a layer is first asked for, made anew where its weight has changed since.
    """

    def __init__(self) -> None:
        self._kept: dict[nn.Linear, tuple[tuple[int, int], Tensor]] = {}

    def of(self, layer: nn.Linear) -> Tensor:
        """The copy of a layer's weight, without the outputs that fill no block."""
        weight = layer.weight
        state = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        known, copy = self._kept.get(layer, (None, weight))
        if known != state:
            outputs, inputs = weight.shape
            width = next((n for n in WIDTHS if outputs % n == 0), WIDTHS[-1])
            whole = weight.detach()[: outputs - outputs % width]
            copy = whole.view(-1, width, inputs).transpose(1, 2).contiguous()
            self._kept[layer] = (state, copy)
        return copy


def copied_bytes(*modules: nn.Module) -> int:
    """What `Copies` come to take of these modules' layers."""
    layers = {layer for module in modules for layer in module.modules() if _fits(layer)}
    return sum(layer.weight.nbytes for layer in layers)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, copy: Tensor | None = None
) -> Tensor:
    """x W^T + b. x: [..., inputs]; weight: [outputs, inputs], contiguous; copy: as `Copies` has."""
    outputs, inputs = weight.shape
    width = BLOCK if copy is None else copy.shape[2]
    whole = outputs - outputs % width
    rows = x.numel() // inputs
    if rows > ROWS or whole <= width or (copy is not None and rows <= FEW):
        return nn.functional.linear(x, weight, bias)
    if copy is None:
        copy = weight[:whole].view(-1, width, inputs).transpose(1, 2)
    found = torch.bmm(x.reshape(1, rows, inputs).expand(len(copy), -1, -1), copy)
    made = found.transpose(0, 1).reshape(rows, whole)
    if whole < outputs:
        rest = nn.functional.linear(x.reshape(rows, inputs), weight[whole:])
        made = torch.cat([made, rest], -1)
    if bias is not None:
        made += bias
    return made.view(*x.shape[:-1], outputs)


@contextmanager
def blocked(module: nn.Module, copies: Copies | None = None) -> Iterator[None]:
    """A module's linear layers compute in blocks, for the length of a `with` block.

    Plain float32 layers on a processor alone; what hooks see and do is as before.
    """
    layers = [layer for layer in module.modules() if _fits(layer) and "forward" not in vars(layer)]
    for layer in layers:
        copy = None if copies is None else copies.of(layer)
        layer.forward = functools.partial(_forward, layer, copy)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # The class's own is there again.


def _fits(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and layer.weight.is_contiguous()
        and layer.out_features > BLOCK
    )


def _forward(layer: nn.Linear, copy: Tensor | None, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias, copy)
