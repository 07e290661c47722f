"""Passes over one row that a check of a model looks into: the model's own, the engine's prefix."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from lmmsteer.engine import attention
from lmmsteer.engine.store import Lanes, Passing
from lmmsteer.engine.works import PrefixWork
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm, PreparedPicture
from lmmsteer.models.qwen import remembered_positions

RECORD = "Mend the family's record in lmmsteer/models/families.py (docs/add-a-model.md)"


def prepared_for(lmm: Lmm, picture: Image.Image) -> PreparedPicture:
    with within(lmm.name, "The processor"):
        return lmm.prepare(picture)


def logits(lmm: Lmm, ids: Sequence[int], picture: PreparedPicture) -> Tensor:
    """transformers' own forward pass over one row: what follows it, [vocab] float32."""
    inputs = lmm.row_inputs(ids, picture.features)
    knows = "logits_to_keep" in inspect.signature(lmm.model.forward).parameters
    how = {"use_cache": False, **({"logits_to_keep": 1} if knows else {})}
    fresh = remembered_positions(lmm.model)
    with torch.inference_mode(), fresh, within(lmm.name, "A forward pass"):
        return lmm.model(**inputs, **how).logits[0, -1].float()


def steps(
    lmm: Lmm, ids: Sequence[int], picture: PreparedPicture, said: Sequence[int]
) -> list[Tensor]:
    """What transformers' own generate would choose each of these tokens and the next from.

    Each is said whatever it would choose. [vocab] float32 for each step.
    """
    forced = _Forced(len(ids), said)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=1 + len(said),
        pad_token_id=lmm.tokenizer.pad_token_id,
    )
    with torch.inference_mode(), within(lmm.name, "transformers' generate"):
        lmm.model.generate(
            **lmm.row_inputs(ids, picture.features),
            generation_config=config,
            logits_processor=LogitsProcessorList([forced]),
        )
    return forced.seen


class _Forced(LogitsProcessor):
    """Lets generate say given tokens, and keeps what it would have chosen from."""

    def __init__(self, length: int, said: Sequence[int]) -> None:
        self.length, self.said = length, said
        self.seen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.length
        self.seen.append(scores[0].float())
        if step == len(self.said):
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.said[step]] = 0.0
        return forced


def engine_prefix(
    lmm: Lmm, ids: Sequence[int], picture: PreparedPicture, at: Sequence[int]
) -> list[Tensor]:
    """Outputs of the blocks for a prefix as engine=shared computes it: [at, d_model] each."""
    decoding, device = DECODING[lmm.family.name], lmm.device.torch_device()
    row, lanes = torch.tensor([list(ids)], device=device), Lanes(1, device)
    lanes.set_lengths([0], len(ids))
    work = PrefixWork(
        lanes,
        [0],
        causal=decoding.causal,
        sees=decoding.sees(lmm, row),
        cross_layers=decoding.cross_layers(lmm),
        valid=[decoding.valid(lmm, picture)],
    )
    passing = Passing(lmm.n_layers, torch.zeros(1, 1, 1, 1, device=device))
    with torch.inference_mode(), within(lmm.name, "The shared engine's prefix"):
        features = decoding.features(lmm, [picture])
        arguments = decoding.prefix(lmm, row, [picture], features)
        with (
            decoding.redirected(lmm, attention.NAME),
            recorded(lmm, at) as blocks,
            attention.working(work),
        ):
            decoding.run(lmm, arguments, passing)
    return blocks


@contextmanager
def recorded(lmm: Lmm, at: Sequence[int]) -> Iterator[list[Tensor]]:
    """Outputs of the decoder's blocks in a `with` block, of some tokens: [at, d_model] float32."""
    found: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        found.append(hidden[0, list(at)].detach().float().cpu())

    with ExitStack() as placed:
        for block in lmm.layers:
            placed.callback(block.register_forward_hook(keep).remove)
        yield found


def apart(blocks: Sequence[Tensor], others: Sequence[Tensor]) -> list[float]:
    """Block by block, how far tokens moved on average: |a - b| / |a|."""
    pairs = zip(blocks, others, strict=True)
    moved = [(a - b).norm(dim=-1) / a.norm(dim=-1).clamp_min(1e-30) for a, b in pairs]
    return [float(tokens.mean()) for tokens in moved]


@contextmanager
def within(name: str, what: str, mend: str = RECORD) -> Iterator[None]:
    """What transformers and torch raise in a `with` block, as one sentence."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunFailed(
            f"The device's memory does not suffice for {name}.",
            "Use a smaller model.dtype, or a larger card",
        ) from error
    except LmmsteerError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise RunFailed(f"{what} of {name} fails: {why}.", mend) from error
