"""The everyday practice: transformers' generate, its own cache and sampling, forward hooks.

Written as a user of transformers would write it, and independently of engine/hooks.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from lmmsteer.engine.benchmark.contenders import Answers
from lmmsteer.engine.benchmark.workload import Workload, batches
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.sampling import Sampling
from lmmsteer.models.lmm import Lmm, ResidualPoint


class FirstToken(LogitsProcessor):
    """Notes when the logits of the first new token were there; changes nothing."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self.synchronize = synchronize
        self.at: float | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.at is None:
            self.synchronize()
            self.at = time.perf_counter()
        return scores


@contextmanager
def ablated(lmm: Lmm, edit: Edit) -> Iterator[None]:
    """Forward hooks that project directions out: r' = r - (r A^T) A at every residual."""
    if edit.residual is None:
        yield
        return
    directions = edit.residual.directions.to(lmm.device.torch_device(), lmm.dtype)
    handles = [_hook(point, directions) for point in lmm.residual_points()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(point: ResidualPoint, directions: Tensor) -> Any:
    def project(h: Tensor) -> Tensor:
        return h - (h @ directions.T) @ directions

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (project(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": project(kwargs["hidden_states"])}

    def after(_: Any, args: Any, out: Any) -> Any:
        return (project(out[0]), *out[1:]) if isinstance(out, tuple) else project(out)

    if point.place == "block_input":
        return point.module.register_forward_pre_hook(before, with_kwargs=True)
    return point.module.register_forward_hook(after)


class Hooks:
    """generate + hooks, batches of `size` rows grouped by picture or by prompt.

    Each batch runs until its longest row is done, since that is what a padded batch costs.
    """

    name = "hooks"
    remark = "transformers generate, DynamicCache, forward hooks, its best batch size"

    def __init__(self, size: int = 15, by: str = "prompt") -> None:
        self.size = size
        self.by = by

    def answer(self, lmm: Lmm, work: Workload, edit: Edit) -> Answers:
        start, first, wait = time.perf_counter(), 0.0, 0.0
        tokens: list[list[int]] = [[] for _ in work.requests]
        with ablated(lmm, edit):
            for rows in batches(work, self.size, self.by):
                batch, at, prepared = self._batch(lmm, work, rows)
                first += (at - start) * len(rows)
                wait += prepared
                for row, found in zip(rows, batch, strict=True):
                    tokens[row] = found[: work.lengths[row]]
        stats = {"batch_rows": self.size, "grouped_by": self.by}
        return Answers(tokens, None, first / max(1, len(tokens)), wait, stats)

    @torch.inference_mode()
    def _batch(
        self, lmm: Lmm, work: Workload, rows: list[int]
    ) -> tuple[list[list[int]], float, float]:
        """Token ids of one batch, when its first token was there, seconds of preparation."""
        start = time.perf_counter()
        requests = [work.requests[row] for row in rows]
        pictures = [work.pictures[request.image_id] for request in requests]
        inputs = lmm.inputs([request.prompt for request in requests], pictures)
        prepared = time.perf_counter() - start
        first = FirstToken(lmm.device.synchronize)
        longest = max(work.lengths[row] for row in rows)
        out = lmm.model.generate(
            **inputs,
            generation_config=generation_config(lmm, work.sampling, longest),
            logits_processor=LogitsProcessorList([first]),
        )
        new = out[:, inputs["input_ids"].shape[1] :].tolist()
        return new, first.at or start, prepared


def generation_config(lmm: Lmm, sampling: Sampling, new_tokens: int) -> GenerationConfig:
    """transformers' own sampling; no token ends an answer before its length is reached."""
    drawn = {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
    }
    chosen = drawn if sampling.temperature > 0 else {"do_sample": False}
    return GenerationConfig(
        **chosen,
        max_new_tokens=new_tokens,
        eos_token_id=None,
        pad_token_id=lmm.tokenizer.pad_token_id,
    )
