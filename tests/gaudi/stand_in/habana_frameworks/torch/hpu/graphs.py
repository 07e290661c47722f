"""HPU graphs: operations recorded once, and played back on the memory they were recorded on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from habana_frameworks.torch.hpu import metrics

_ATEN = torch.ops.aten
HOST_READS = (
    _ATEN._local_scalar_dense.default,
    _ATEN.nonzero.default,
    _ATEN.masked_select.default,
    _ATEN.equal.default,
    _ATEN.item.default,  # In inference mode, where composites are not taken apart.
    _ATEN.is_nonzero.default,
)


class Tape(TorchDispatchMode):
    """Writes down every operation with the tensors it read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in HOST_READS:
            raise RuntimeError(f"{func} is not supported during HPU Graph capturing")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        with torch.inference_mode():
            for func, args, kwargs, result in self.calls:
                again = func(*args, **kwargs)
                for old, new in zip(tree_flatten(result)[0], tree_flatten(again)[0], strict=True):
                    if isinstance(old, Tensor) and _storage(old) != _storage(new):
                        old.copy_(new)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class HPUGraph:
    """capture_begin, capture_end, replay, as the real one has them."""

    def __init__(self) -> None:
        self.tape = Tape()

    def capture_begin(self, *_: Any, **__: Any) -> None:
        self.tape.__enter__()

    def capture_end(self) -> None:
        self.tape.__exit__(None, None, None)
        metrics.compiled += 1

    def replay(self, *_: Any, **__: Any) -> None:
        self.tape.replay()


@contextmanager
def graph(made: HPUGraph, *_: Any, **__: Any) -> Iterator[None]:
    made.capture_begin()
    try:
        yield
    finally:
        made.capture_end()


def signature(value: Any) -> Any:
    """What makes a call another one: shapes and dtypes of tensors, and all that is no tensor."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return tuple((key, signature(x)) for key, x in value.items())
    if isinstance(value, (tuple, list)):
        return tuple(map(signature, value))
    return value if isinstance(value, (int, float, str, bool, type(None))) else id(value)


def wrap_in_hpu_graph(module: Any, *_: Any, **__: Any) -> Any:
    """A module whose forward is recorded once for each signature, then played back.

    As with the real one, outputs lie in the same memory at every playing, and inputs are copied
    into that of the recording. module.graphs: what was recorded, by signature.
    """
    inner = module.forward
    module.graphs = {}

    @functools.wraps(inner)
    def forward(*args: Any, bypass_hpu_graphs: bool = False, **kwargs: Any) -> Any:
        if bypass_hpu_graphs:
            return inner(*args, **kwargs)
        key = signature((args, kwargs))
        if key not in module.graphs:
            args, kwargs = tree_map_only(Tensor, torch.clone, (args, kwargs))
            made = HPUGraph()
            with graph(made):
                outputs = inner(*args, **kwargs)
            module.graphs[key] = made, (args, kwargs), outputs
            return outputs
        made, held, outputs = module.graphs[key]
        new = tree_flatten((args, kwargs))[0]
        for old, given in zip(tree_flatten(held)[0], new, strict=True):
            if isinstance(old, Tensor) and old is not given:
                old.copy_(given)
        made.replay()
        return outputs

    module.forward = forward
    module.clear_cache = module.graphs.clear
    module.clear_inputs = lambda: None
    return module
