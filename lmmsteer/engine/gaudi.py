"""What engines do otherwise on Gaudi cards: steps as HPU graphs, and optimum-habana's generate.

With lmmsteer/device.py the only home of Habana imports.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from lmmsteer.engine.capture import Captured
from lmmsteer.engine.edit import EVERYWHERE, Edit
from lmmsteer.engine.sampling import NEVER, Draws, Sampling, noise_words, nonfinite
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.models.lmm import Lmm

STEPS = 1024  # Compiled steps that are kept, at most.
WIDTH = 128  # Inputs are padded to a multiple of this, so that few graphs serve all prompts.
STATIC_CACHES = ("qwen2_5_vl",)  # Families that keep keys and values in transformers' own cache.
log = logging.getLogger(__name__)


class HpuCaptured(Captured):
    """A decode step as an HPU graph, in lazy mode. Capturing may run the step once, so that its
    state is put back and the first result is a replay's too.
    """

    def _record(self) -> tuple[Any, Tensor]:
        hpu = importlib.import_module("habana_frameworks.torch.hpu")
        before = [tensor.clone() for tensor in self.state()]
        graph = hpu.HPUGraph()
        with hpu.stream(hpu.Stream()):
            graph.capture_begin()
            try:
                result = self.step()
            except Exception:
                with suppress(Exception):  # What went wrong first is what is to be told.
                    graph.capture_end()
                raise
            graph.capture_end()
        hpu.synchronize()
        self.restore(before)
        return graph, result


class HpuCompiled(Captured):
    """A decode step compiled for the card by torch.compile, in compile mode.

    Its guards know what it was compiled for, so that other memory, values or hooks never meet a
    step that was made for these; a key is a step that was run once, ahead of its first row.
    """

    def __init__(self, step: Callable[[], Tensor], state: Callable[[], Sequence[Tensor]]) -> None:
        super().__init__(step, state)
        self._compiled = compiled(step)

    def __call__(self, key: Hashable) -> Tensor:
        if not self.prepare(key):
            return self.step()
        return self._compiled()

    def _record(self) -> tuple[Any, Tensor]:
        before = [tensor.clone() for tensor in self.state()]
        result = self._compiled()
        self.restore(before)
        return None, result


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled for Gaudi cards, once for each set of shapes and of hooks."""
    importlib.import_module("habana_frameworks.torch.core")  # It brings the backend.
    made = torch.compile(function, backend="hpu_backend", dynamic=False)
    kept = {
        "cache_size_limit": STEPS,
        "accumulated_cache_size_limit": STEPS,
        "skip_nnmodule_hook_guards": False,  # Else a step would miss hooks that come later.
    }

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch._dynamo.config.patch(kept):
            return made(*args, **kwargs)

    return call


@cache
def check_noise(device: torch.device) -> None:
    """Raises: RunFailed where the card's integers do not wrap around as a processor's do."""
    keys = torch.tensor([[1, -7], [2**31 - 1, -(2**31)]], dtype=torch.int32)
    tokens = torch.tensor([[0, 1, 31999, 128255]])
    expected = noise_words(keys, 511, tokens)
    found = noise_words(keys.to(device), 511, tokens.to(device)).cpu()
    if not torch.equal(found, expected):
        raise RunFailed(
            "This card's 32-bit integers do not wrap around, so that rows would get other noise "
            "than elsewhere.",
            "Use sampling.temperature=0, or another kind of device",
        )


def refuse(edit: Edit) -> None:
    """Raises: LmmsteerError for an edit that optimum-habana's generate cannot be given."""
    residual = edit.residual
    if edit.contrast is None and (residual is None or residual.scope == EVERYWHERE):
        return
    what = "a contrast stream" if edit.contrast is not None else "a scope of its own"
    raise LmmsteerError(
        f"engine=reference does not run a method with {what} on Gaudi cards, whose recorded steps "
        "cannot tell one token from another.",
        "Use engine=shared",
    )


class Chosen(LogitsProcessor):
    """Rules, then `choose`, for generate with inputs of one length: nothing here depends on where
    the loop stands but tensors on the device. All logits but the chosen token's are -inf.

    numbers: for each rule, what `apply` wants as `of`. most: steps after which all rows end.
    failed_at: as in `NextToken`.
    """

    def __init__(
        self,
        edit: Edit,
        numbers: Sequence[Tensor | None],
        keys: Tensor,
        sampling: Sampling,
        eos_ids: Sequence[int],
        most: int | None = None,
    ) -> None:
        self.most, self.said = most, 0
        self.edit, self.numbers, self.keys, self.sampling = edit, numbers, keys, sampling
        self.eos_ids = torch.tensor(eos_ids or (-1,), device=keys.device)
        self.step = torch.zeros(len(keys), dtype=torch.int32, device=keys.device)
        self.failed_at = torch.full((len(keys),), NEVER, device=keys.device)
        self.ended = torch.zeros(len(keys), dtype=torch.bool, device=keys.device)
        self.memories = [rule.start(len(keys), keys.device) for rule in edit.rules]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.float()
        draw = Draws(self.keys, self.step, self.sampling)
        for rule, memory, of in zip(self.edit.rules, self.memories, self.numbers, strict=True):
            scores = rule.apply(scores, memory, of, dense=True, draw=draw)
        bad = nonfinite(scores)
        failed = torch.where(bad, self.step, torch.full_like(self.step, NEVER))
        self.failed_at = self.failed_at.minimum(failed)
        chosen = draw(scores).masked_fill_(bad, max(int(self.eos_ids[0]), 0))
        self.ended |= bad | torch.isin(chosen, self.eos_ids)
        self.step += 1
        self.said += 1
        rules = zip(self.edit.rules, self.memories, strict=True)
        self.memories = [rule.advance(memory, chosen) for rule, memory in rules]
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen.unsqueeze(1), 0.0)

    def stop(self, *_: Any, **__: Any) -> bool:
        """Whether every row has ended, as generate's stopping criteria are asked."""
        return self.said == self.most or bool(self.ended.all())


def padded_length(tokens: int) -> int:
    """Of an input, in tokens."""
    return -(-tokens // WIDTH) * WIDTH


def padded(inputs: dict[str, Tensor], pad: int) -> dict[str, Tensor]:
    """Inputs of `Lmm.inputs`, padded on the left to a multiple of WIDTH tokens."""
    tokens = inputs["input_ids"].shape[1]
    more = padded_length(tokens) - tokens
    made = dict(inputs)
    made["input_ids"] = torch.nn.functional.pad(inputs["input_ids"], (more, 0), value=pad)
    made["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (more, 0))
    if "cross_attention_mask" in inputs:  # [rows, tokens, pictures, tiles]
        mask = inputs["cross_attention_mask"]
        made["cross_attention_mask"] = torch.nn.functional.pad(mask, (0, 0, 0, 0, more, 0))
    return made


def generate(
    lmm: Lmm, inputs: dict[str, Tensor], chosen: Chosen, new_tokens: int, others: Sequence[Any]
) -> Tensor:
    """optimum-habana's generate at fixed shapes; the sampler and the end of a row are ours.

    others: logits processors that look on before ours. Result: [rows, tokens + new_tokens], where
    fewer were wanted filled up with padding.
    """
    cache = "static" if lmm.family.name in STATIC_CACHES else None
    configs = importlib.import_module("optimum.habana.transformers.generation")
    config = configs.GaudiGenerationConfig(
        do_sample=False,
        max_new_tokens=new_tokens,
        pad_token_id=lmm.tokenizer.pad_token_id,
        static_shapes=True,
        ignore_eos=True,
        use_cache=True,
        cache_implementation=cache,
    )
    lmm.model.generation_config = configs.GaudiGenerationConfig(do_sample=False)
    return lmm.model.generate(
        **inputs,
        generation_config=config,
        logits_processor=LogitsProcessorList([*others, chosen]),
        stopping_criteria=StoppingCriteriaList([chosen.stop]),  # type: ignore[list-item]
        lazy_mode=lmm.device.lazy,
        hpu_graphs=lmm.device.lazy,
        ignore_eos=True,
    )


@contextmanager
def graphed(lmm: Lmm, structure: Any) -> Iterator[None]:
    """The model's forward is recorded for each shape, in lazy mode; anew for another structure.

    structure: what the recording depends on besides shapes and tensors' values; None: it cannot
    be recorded.
    """
    model = lmm.model
    if not lmm.device.lazy or structure is None:
        forward = model.__dict__.pop("forward", None)
        try:
            yield
        finally:
            if forward is not None:
                model.forward = forward
        return
    if "forward" not in model.__dict__:
        hpu = importlib.import_module("habana_frameworks.torch.hpu")
        hpu.wrap_in_hpu_graph(model)
        model.recorded_structure = structure
    if model.recorded_structure != structure:
        model.clear_cache()
        model.recorded_structure = structure
    yield
