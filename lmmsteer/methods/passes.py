"""The passes of a fit: what one has come to is not computed again, not even after a kill.

A pass has a name, unique in its fit, and is a function of what defines the fit and of the passes
before it. Knows nothing of files, nor of what a pass computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor

Tensors = Mapping[str, Tensor]
T = TypeVar("T")

TOGETHER = 64  # Pictures, pairs or texts of a pass.


class Shelf(Protocol):
    """Where the results of passes lie, by name. What is read was written whole."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, data: bytes) -> None:
        """Put it there, in the place of what has that name."""
        ...


@dataclass(frozen=True)
class Passes:
    """What passes come to, kept on a shelf; without one it is computed and that is all.

    A result is the same tensors, bit for bit and laid out alike, whether it was computed or read.
    """

    shelf: Shelf | None = None

    def once(self, name: str, compute: Callable[[], Tensors]) -> dict[str, Tensor]:
        """What `compute` returns, on the CPU."""
        kept = self._read(name)
        if kept is not None:
            return kept
        found = _laid_out(compute())
        self._write(name, found)
        return found

    def rows(
        self,
        name: str,
        items: Sequence[T],
        compute: Callable[[Sequence[T]], Tensor],
        size: int = TOGETHER,
    ) -> Tensor:
        """One row for each item, computed for `size` of them in a pass. [items, ...]"""
        parts = []
        for start in range(0, len(items), size):
            some = items[start : start + size]
            found = self.once(f"{name}-{start}", lambda some=some: {"rows": compute(some)})
            parts.append(found["rows"])
        return torch.cat(parts)

    def steps(
        self,
        name: str,
        start: Callable[[], Tensors],
        step: Callable[[Tensors, int], Tensors],
        count: int,
    ) -> dict[str, Tensor]:
        """The state after `count` steps, each a pass; only the last one's state is kept.

        start: the state before the first; step: (state, its number from 0) -> the next state.
        """
        kept = self._read(name)
        done = 0 if kept is None else int(kept.pop(DONE))
        state = _laid_out(start()) if kept is None else kept
        for at in range(done, count):
            state = _laid_out(step(state, at))
            self._write(name, {**state, DONE: torch.tensor(at + 1)})
        return state

    def _read(self, name: str) -> dict[str, Tensor] | None:
        data = None if self.shelf is None else self.shelf.read(name)
        return None if data is None else _laid_out(load(data))

    def _write(self, name: str, found: dict[str, Tensor]) -> None:
        if self.shelf is not None:
            self.shelf.write(name, save(found))


DONE = "steps done"


def _laid_out(tensors: Tensors) -> dict[str, Tensor]:
    """Copies of their own, in order and contiguous: sums can hang on where numbers lie."""
    return {
        name: x.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, x in sorted(tensors.items())
    }
