"""transformers' continuous batching (generate_batch), as far as it can serve this workload.

It takes token ids only: no pictures, no steering. It is raced on the language model alone, with a
prompt of the same length, and so does less work than the others.
"""

from __future__ import annotations

import copy
import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from lmmsteer.engine.benchmark.contenders import Answers
from lmmsteer.engine.benchmark.hooked import generation_config
from lmmsteer.engine.benchmark.workload import Workload
from lmmsteer.engine.edit import Edit
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.models.lmm import Lmm

PAGE = 256


class Paged:
    """generate_batch with at most `size` requests at a time."""

    name = "generate_batch"
    remark = "language model only, token ids only: no vision, no steering"

    def __init__(self, size: int = 15) -> None:
        self.size = size
        self.decoder: Any = None

    def answer(self, lmm: Lmm, work: Workload, edit: Edit) -> Answers:
        if self.decoder is None:
            self.decoder = decoder_of(lmm)
        prompts = _prompts(lmm, work)
        longest = max(map(len, prompts)) + max(work.lengths)
        settings = transformers.ContinuousBatchingConfig(
            max_requests_per_batch=self.size,
            page_size=PAGE,
            num_blocks=(self.size + 1) * (longest // PAGE + 2),
            max_batch_tokens=max(self.size, 2 * max(map(len, prompts))),
            seed=0,
        )
        config = generation_config(lmm, work.sampling, max(work.lengths))
        with _quiet():
            found, clock = _served(self.decoder, prompts, work.lengths, config, settings)
        return Answers(found, clock, stats={"batch_rows": self.size})


def decoder_of(lmm: Lmm) -> Any:
    """The language model on its own, on the same weights.

    Raises: LmmsteerError where the decoder is no causal language model of its own.
    """
    if not hasattr(transformers, "ContinuousBatchingConfig"):
        raise LmmsteerError("this transformers has no ContinuousBatchingConfig")
    config = copy.deepcopy(lmm.model.config.get_text_config())
    inner = lmm.decoder
    try:
        with torch.device("meta"):
            alone: Any = AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise LmmsteerError("its decoder is no causal language model of its own") from error
    if type(alone.base_model) is not type(inner) or lmm.family.name == "mllama":
        raise LmmsteerError("its decoder does not run without the pictures' part")
    alone.model, alone.lm_head = inner, lmm.model.lm_head
    return alone.eval()


def _prompts(lmm: Lmm, work: Workload) -> list[list[int]]:
    """Each row's token ids; random ones of its picture's own where the picture would stand."""
    placeholder = lmm.tokenizer.convert_tokens_to_ids(lmm.image_token)
    filler, shown, written = {}, {}, []
    for number, (image_id, picture) in enumerate(work.pictures.items()):
        drawn = random.Random(number)
        prepared = lmm.prepare(picture)
        filler[image_id] = [drawn.randrange(10, 300) for _ in range(prepared.tokens)]
        shown[image_id] = prepared.shown
    for request in work.requests:
        stand_in = iter(filler[request.image_id])
        ids = lmm.token_ids(request.prompt, shown[request.image_id])
        written.append([next(stand_in) if token == placeholder else token for token in ids])
    return written


def _served(
    decoder: Any, prompts: Any, lengths: Any, config: Any, settings: Any
) -> tuple[list[list[int]], tuple[float, float]]:
    """The new tokens of every prompt, each forced to its length; seconds while it served."""
    served = decoder.continuous_batching_context_manager(
        generation_config=config, continuous_batching_config=settings, timeout=5, warmup=True
    )
    with torch.no_grad(), served as manager:
        wall, cpu = time.perf_counter(), time.process_time()
        for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
            manager.add_request(prompt, str(row), max_new_tokens=length, eos_token_id=-1)
        found = _collected(manager, len(prompts))
        clock = time.perf_counter() - wall, time.process_time() - cpu
    return [found[str(row)] for row in range(len(prompts))], clock


def _collected(manager: Any, rows: int) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    while len(found) < rows:
        result = manager.get_result(timeout=1)
        if result is None and not manager.is_running():
            raise RunFailed("generate_batch ended before all rows were answered")
        if result is not None and result.error is not None:
            raise RunFailed(f"generate_batch: {result.error}")
        if result is not None and result.is_finished():
            found[result.request_id] = list(result.generated_tokens)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without its advice on flash attention, and on memory that is given here."""
    own = logging.getLogger("ContinuousBatchingLogger")
    level, own_level = transformers_logging.get_verbosity(), own.level
    transformers_logging.set_verbosity(logging.CRITICAL)
    own.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        own.setLevel(own_level)
