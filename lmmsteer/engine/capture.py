"""A decode step as a graph (CUDA's here): recorded once for each shape, replayed without the host.

Where a step cannot be recorded it runs as it is, and the log says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class Captured:
    """Replays `step` for each key it was called with. step reads and writes the same memory always.

    state: what a step changes besides appending keys and values; it is put back after warm-up.
    A function, since it is other memory for other rules.
    """

    def __init__(self, step: Callable[[], Tensor], state: Callable[[], Sequence[Tensor]]) -> None:
        self.step, self.state = step, state
        self.failed = False
        self._graphs: dict[Hashable, tuple[Any, Tensor]] = {}
        self._pool: Any = None

    def __call__(self, key: Hashable) -> Tensor:
        """The step's result, in memory that the next replay overwrites."""
        if self.failed:
            return self.step()
        if not self.prepare(key):
            return self.step()
        graph, result = self._graphs[key]
        graph.replay()
        return result

    def __contains__(self, key: Hashable) -> bool:
        return key in self._graphs

    def prepare(self, key: Hashable) -> bool:
        """Record the step for a key, where it is not yet; False where steps cannot be recorded."""
        if self.failed:
            return False
        if key not in self._graphs:
            try:
                self._graphs[key] = self._record()
            except RuntimeError as error:
                log.warning("The decode step runs without a graph: %s", error)
                self.failed = True
                self._graphs.clear()
                return False
        return True

    def forget(self) -> None:
        """The memory that steps work on has moved: record anew."""
        self._graphs.clear()

    def _record(self) -> tuple[Any, Tensor]:
        before = [tensor.clone() for tensor in self.state()]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self.step()
                self.restore(before)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = self.step()
        self._pool = graph.pool()
        return graph, result

    def restore(self, before: Sequence[Tensor]) -> None:
        """Put the state back to what it was."""
        for tensor, old in zip(self.state(), before, strict=True):
            tensor.copy_(old)
