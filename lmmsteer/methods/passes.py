"""The passes of a fit: what one has come to is not computed again, not even after a kill.

A pass has a name, unique in its fit, and is a function of what defines the fit and of the passes
before it. So several hands may be at one fit: each begins elsewhere, and takes from the shelf what
the others have put there. Knows nothing of files, nor of what a pass computes.
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

    def over(self) -> bool:
        """Whether the fit has ended, so that no pass is wanted any more."""
        ...


class Helped(Exception):
    """A helping hand has come to where it is of no use; the first one goes on alone."""


@dataclass(frozen=True)
class Passes:
    """What passes come to, kept on a shelf; without one it is computed and that is all.

    A result is the same tensors, bit for bit and laid out alike, whether it was computed or read.
    hand: which of `hands` this is. The first, 0, ends the fit; the others help it with `each` and
    `rows`, and raise Helped where a pass can only be waited for.
    """

    shelf: Shelf | None = None
    hand: int = 0
    hands: int = 1

    def once(self, name: str, compute: Callable[[], Tensors]) -> dict[str, Tensor]:
        """What `compute` returns, on the CPU: a pass that those after it rest on."""
        kept = self._read(name)
        if kept is None and self.hand:
            raise Helped
        return self._computed(name, compute) if kept is None else kept

    def each(
        self,
        names: Sequence[str],
        compute: Callable[[int], Tensors],
        there: Callable[[int], None] | None = None,
    ) -> list[dict[str, Tensor]]:
        """What `compute` returns for each index of `names`: passes that rest on none of the others.

        Each hand begins at a place of its own and goes round, past what is on the shelf. `there`
        hears of each index once its result is there, whoever has computed it.
        """
        first = len(names) * self.hand // self.hands
        found: dict[int, dict[str, Tensor]] = {}
        for at in (*range(first, len(names)), *range(first)):
            kept = self._read(names[at])
            found[at] = (
                self._computed(names[at], lambda at=at: compute(at)) if kept is None else kept
            )
            if there is not None:
                there(at)
        return [found[at] for at in range(len(names))]

    def rows(
        self,
        name: str,
        items: Sequence[T],
        compute: Callable[[Sequence[T]], Tensor],
        size: int = TOGETHER,
        there: Callable[[int], None] | None = None,
    ) -> Tensor:
        """One row for each item, computed for `size` of them in a pass. [items, ...]

        `there` hears how many items lie before the end of each pass whose rows are there.
        """
        starts = range(0, len(items), size)

        def part(at: int) -> Tensors:
            return {"rows": compute(items[starts[at] : starts[at] + size])}

        def told(at: int) -> None:
            if there is not None:
                there(min(starts[at] + size, len(items)))

        found = self.each([f"{name}-{start}" for start in starts], part, told)
        return torch.cat([one["rows"] for one in found])

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
        if self.hand and (kept is None or int(kept[DONE]) < count):
            raise Helped
        done = 0 if kept is None else int(kept.pop(DONE))
        state = _laid_out(start()) if kept is None else kept
        for at in range(done, count):
            state = _laid_out(step(state, at))
            self._write(name, {**state, DONE: torch.tensor(at + 1)})
        return state

    def _computed(self, name: str, compute: Callable[[], Tensors]) -> dict[str, Tensor]:
        if self.hand and self.shelf is not None and self.shelf.over():
            raise Helped
        found = _laid_out(compute())
        self._write(name, found)
        return found

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
