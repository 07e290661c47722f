"""Strict mode's promise, tried on the model and device at hand: one row, two slots, equal bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lmmsteer.engine import attention
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.pictures import FeatureCache
from lmmsteer.engine.run import Run
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shape import Shape
from lmmsteer.engine.slots import Slots
from lmmsteer.engine.stats import Stats
from lmmsteer.errors import RunFailed
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request, row_id

TOKENS = 4
PROBE = "probe"

Trace = list[tuple[str, bytes, bytes]]
"""Module by module as they ran: a name with its shape, and the probe's row going in and out."""


def check_strict(lmm: Lmm, shape: Shape) -> None:
    """Answer one row in the first slot and in the last, with other companions, and compare bits.

    Raises: RunFailed naming the operation whose result depends on where a row stands.
    """
    first = _trace(lmm, shape, [_probe(), *_companions(shape.slots // 2, 0)])
    last = _trace(lmm, shape, [*_companions(shape.slots - 1, 1), _probe()])
    if len(first) != len(last):
        raise RunFailed("The strict self-test ran different modules.", "Use engine.strict=false")
    for (name, going_in, out), (_, other_in, other_out) in zip(first, last, strict=True):
        if going_in != other_in or out != other_out:
            what = name if going_in == other_in else f"the attention before {name}"
            raise RunFailed(
                f"engine.strict=true cannot be kept on this device: {what} gives a row other bits "
                f"in another slot ({shape.slots} slots).",
                "Try another engine.slots, or engine.strict=false",
            )


def _probe() -> Request:
    return Request(row_id(PROBE, None, PROBE, 0), PROBE, "p", PROBE, 0)


def _companions(count: int, seed: int) -> list[Request]:
    """Rows about other pictures with other prompts, 16 to a picture."""
    return [
        Request(
            row_id(str(at), None, "", seed), f"{seed}-{at // 16}", "c", f"{seed} {at} " * 3, seed
        )
        for at in range(count)
    ]


def _pictures(requests: Sequence[Request]) -> dict[str, Image.Image]:
    pictures = {}
    for image_id in dict.fromkeys(request.image_id for request in requests):
        drawn = np.random.default_rng(sum(image_id.encode())).integers(0, 255, (64, 64, 3))
        pictures[image_id] = Image.fromarray(drawn.astype(np.uint8)).resize((256, 256))
    return pictures


@torch.inference_mode()
def _trace(lmm: Lmm, shape: Shape, requests: Sequence[Request]) -> Trace:
    """Every module's input and output for the probe's row, over its decode steps."""
    slots = _Watched(lmm, DECODING[lmm.family.name], shape)
    slots.begin(Edit(), Sampling(temperature=0), None)
    lengths = [TOKENS] * len(requests)
    run = Run(slots, requests, _pictures(requests), FeatureCache(0), Stats(), lengths)
    trace: Trace = []
    slots.watch = lambda hidden, logits: note("the head", hidden, logits)

    def note(name: str, given: Any, result: Any) -> None:
        at = _slot_of(slots)
        if at is not None and isinstance(given, Tensor) and len(given) == shape.slots:
            what = f"{name} [{shape.slots}, {given.shape[-1]}] -> [{result.shape[-1]}]"
            trace.append((what, _bits(given[at]), _bits(result[at])))

    with ExitStack() as placed:
        for name, module in _leaves(lmm):
            hook = module.register_forward_hook(
                lambda _, args, out, name=name: note(name, args[0] if args else None, out)
            )
            placed.callback(hook.remove)
        placed.enter_context(slots.decoding.redirected(lmm, attention.NAME))
        try:
            while not run.done:
                run.advance(None)
        finally:
            run.close()
    return trace


def _slot_of(slots: Slots) -> int | None:
    for at, one in enumerate(slots.active):
        if one is not None and one.row.prompt == PROBE:
            return at
    return None


class _Watched(Slots):
    """Slots that show what goes into the head and what comes out of it."""

    watch: Callable[[Tensor, Tensor], None]

    def logits(self, hidden: Tensor) -> Tensor:
        found = super().logits(hidden)
        self.watch(hidden, found)
        return found


def _leaves(lmm: Lmm) -> Iterator[tuple[str, nn.Module]]:
    """The modules of the decoder that have weights, whose products make a decode step."""
    for name, module in DECODING[lmm.family.name].decoder(lmm).named_modules():
        if isinstance(getattr(module, "weight", None), Tensor) and not list(module.children()):
            yield name, module


def _bits(row: Tensor) -> bytes:
    return row.contiguous().view(torch.uint8).cpu().numpy().tobytes()
