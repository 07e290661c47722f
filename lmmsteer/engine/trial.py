"""Passes over one row that a check of a model looks into: the model's own, the engine's prefix."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

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


def logits(
    lmm: Lmm, ids: Sequence[int], picture: PreparedPicture, said: Sequence[int] = ()
) -> Tensor:
    """transformers' own forward pass over one row, what follows the prompt and each token said.

    [1 + said, vocab] float32.
    """
    inputs, keep = lmm.row_inputs(ids, picture.features, said), 1 + len(said)
    knows = "logits_to_keep" in inspect.signature(lmm.model.forward).parameters
    how = {"use_cache": False, **({"logits_to_keep": keep} if knows else {})}
    with (
        torch.inference_mode(),
        remembered_positions(lmm.model),
        within(lmm.name, "A forward pass"),
    ):
        return lmm.model(**inputs, **how).logits[0, -keep:].float()


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
    """Block by block, how far the token that moved most did: |a - b| / |a|."""
    pairs = zip(blocks, others, strict=True)
    return [float(((a - b).norm(dim=-1) / a.norm(dim=-1).clamp_min(1e-30)).max()) for a, b in pairs]


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
