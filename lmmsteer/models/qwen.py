"""Qwen2.5-VL with pictures of different sizes in one batch, in transformers 4 too.

There, the distance from a token's place to its rotary position is taken from the padded length at
prefill and from the row's own at decode, so that a padded row's new tokens stand too early.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


def follow_own_rows(model: Any) -> None:
    """Let new tokens follow their own row's last position; transformers 5 does so by itself."""
    prepare = model.prepare_inputs_for_generation
    if "cache_position" not in inspect.signature(prepare).parameters:
        return

    @functools.wraps(prepare)
    def mended(*args: Any, attention_mask: Tensor, cache_position: Tensor, **kwargs: Any) -> Any:
        made = prepare(
            *args, attention_mask=attention_mask, cache_position=cache_position, **kwargs
        )
        if cache_position[0] == 0:
            last = made["position_ids"][1:].amax((0, 2))  # [rows]
            model.model.rope_deltas = (last + 1 - attention_mask.sum(-1)).unsqueeze(1)
        return made

    model.prepare_inputs_for_generation = mended


@contextmanager
def remembered_positions(model: Any) -> Iterator[None]:
    """Calls within the `with` block begin anew; what the model remembers of a generation stays."""
    inner: Any = getattr(model, "model", None)
    if not hasattr(inner, "rope_deltas"):
        yield
        return
    kept, inner.rope_deltas = inner.rope_deltas, None
    try:
        yield
    finally:
        inner.rope_deltas = kept
