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
from typing import TypeGuard

import torch
from torch import Tensor, nn

from lmmsteer.engine import pages

BLOCK = 128  # Outputs of one product of a weight as it lies.
WIDTH = 32  # Outputs of one product of a copy.
ROWS = 160  # Beyond these, plain products are as fast.
FEW = 1  # Of one row, too: it packs nothing.


class Copies:
    """Modules' weights laid out for products of a few rows: [blocks, inputs, WIDTH] for a layer.

    All in one piece of memory, in large pages; made anew where a weight has changed since.
    """

    def __init__(self, *modules: nn.Module) -> None:
        layers = _layers(*modules)
        sizes = [layer.weight.numel() for layer in layers]
        memory = pages.zeros([sum(sizes)], torch.float32, large=True)
        self._of: dict[nn.Linear, Tensor] = {}
        self._made: dict[nn.Linear, tuple[Tensor, int]] = {}  # Of which weight, at which version.
        for layer, part in zip(layers, memory.split(sizes), strict=True):
            outputs, inputs = layer.weight.shape
            blocks = outputs // WIDTH
            self._of[layer] = part[: blocks * WIDTH * inputs].view(blocks, inputs, WIDTH)

    def of(self, layer: nn.Linear) -> Tensor | None:
        """The copy of a layer's weight, without the outputs that fill no block; None: not known."""
        copy, weight = self._of.get(layer), layer.weight.detach()
        if copy is None:
            return None
        version = 0 if weight.is_inference() else weight._version
        known, then = self._made.get(layer, (None, 0))
        # What is held here stays where it is: no other weight can come to lie in its place.
        if known is None or known.data_ptr() != weight.data_ptr() or then != version:
            blocks, inputs, _ = copy.shape
            copy.copy_(weight[: blocks * WIDTH].view(blocks, WIDTH, inputs).transpose(1, 2))
            self._made[layer] = weight, version
        return copy


def copied_bytes(*modules: nn.Module) -> int:
    """What `Copies` come to take of these modules' layers."""
    return sum(layer.weight.nbytes for layer in _layers(*modules))


def _layers(*modules: nn.Module) -> list[nn.Linear]:
    """Those that can be computed in blocks, each once."""
    found = {layer: None for module in modules for layer in module.modules() if _fits(layer)}
    return list(found)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, copy: Tensor | None = None
) -> Tensor:
    """x W^T + b. x: [..., inputs]; weight: [outputs, inputs], contiguous; copy: see `Copies`."""
    outputs, inputs = weight.shape
    width = BLOCK if copy is None else copy.shape[2]
    whole = outputs - outputs % width
    rows = x.numel() // inputs
    if rows > ROWS or whole <= width or (copy is not None and rows <= FEW):
        return nn.functional.linear(x, weight, bias)
    if copy is None:
        copy = weight[:whole].view(-1, width, inputs).transpose(1, 2)
    found = torch.bmm(x.reshape(1, rows, inputs).expand(len(copy), -1, -1), copy).transpose(0, 1)
    if whole == outputs:
        made = found.reshape(*x.shape[:-1], outputs)
    else:
        rest = nn.functional.linear(x.reshape(rows, inputs), weight[whole:])
        made = torch.cat([found.reshape(rows, whole), rest], -1).view(*x.shape[:-1], outputs)
    if bias is not None:
        made += bias
    return made


@contextmanager
def blocked(module: nn.Module, copies: Copies | None = None) -> Iterator[None]:
    """A module's linear layers compute in blocks, for the length of a `with` block.

    Plain float32 layers on a processor alone; what hooks see and do is as before.
    """
    layers = [layer for layer in _layers(module) if "forward" not in vars(layer)]
    for layer in layers:
        copy = None if copies is None else copies.of(layer)
        layer.forward = functools.partial(_forward, layer, copy)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # The class's own is there again.


def _fits(layer: nn.Module) -> TypeGuard[nn.Linear]:
    return (
        type(layer) is nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and layer.weight.is_contiguous()
        and layer.out_features > BLOCK
    )


def _forward(layer: nn.Linear, copy: Tensor | None, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias, copy)
