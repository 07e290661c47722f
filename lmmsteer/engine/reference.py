"""The reference engine: transformers' own generate, with hooks and one logits rule.

The oracle in tests, and the path for cards that the fast engine does not know. Knows nothing of
files, data sets or Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from lmmsteer.engine.cache import growing_cache
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.hooks import Directions, installed, projecting
from lmmsteer.engine.rows import Row, plan_rows, response
from lmmsteer.engine.sampling import NextToken, Sampling, row_keys
from lmmsteer.errors import LmmsteerError
from lmmsteer.models.lmm import Lmm, PreparedPicture
from lmmsteer.schema import Request, Response


@dataclass(frozen=True)
class Reference:
    """Batches of `slots` rows through transformers' generate.

    Which rows share a batch follows from the requests alone: rows are taken by the length of
    their input, then by prompt, since answers to one prompt end at about the same time.
    """

    slots: int = 32

    def edited(self, lmm: Lmm, edit: Edit) -> AbstractContextManager[Directions | None]:
        """The model under an edit, for the length of a `with` block."""
        return installed(lmm, edit)

    def generate(
        self,
        lmm: Lmm,
        requests: Sequence[Request],
        pictures: Mapping[str, Image.Image],
        edit: Edit,
        sampling: Sampling,
        lengths: Sequence[int] | None = None,
    ) -> Iterator[Response]:
        """One response for each request, in the requests' order.

        pictures: RGB, by image id. lengths: exactly so many new tokens for each row, whatever the
        model would end with. A row whose logits are not finite is an error `nonfinite`, one whose
        prompt cannot be shown `prompt_refused`; the others do not notice.
        """
        if edit.contrast is not None:
            raise LmmsteerError(
                "engine=reference has no contrast streams: transformers' generate runs one.",
                "Use engine=shared",
            )
        rows, done = plan_rows(lmm, requests, edit, sampling.max_new_tokens, lengths)
        shown = {row.request.image_id: None for row in rows}
        prepared = {image_id: lmm.prepare(pictures[image_id]) for image_id in shown}
        tokens = {
            row.index: len(lmm.token_ids(row.prompt, prepared[row.request.image_id].tokens))
            for row in rows
        }
        rows.sort(key=lambda row: (tokens[row.index], row.prompt))
        emitted = 0
        for start in range(0, len(rows), self.slots):
            batch = rows[start : start + self.slots]
            of = [row.directions for row in batch]
            with installed(lmm, edit, of), projecting(lmm, edit):
                answers = _answer(lmm, batch, prepared, edit, sampling)
            done.update(zip((row.index for row in batch), answers, strict=True))
            while emitted in done:
                yield done.pop(emitted)
                emitted += 1
        yield from (done[index] for index in sorted(done))


@torch.inference_mode()
def _answer(
    lmm: Lmm,
    rows: Sequence[Row],
    prepared: Mapping[str, PreparedPicture],
    edit: Edit,
    sampling: Sampling,
) -> list[Response]:
    pictures = [prepared[row.request.image_id] for row in rows]
    inputs = lmm.inputs([row.prompt for row in rows], pictures)
    prompt_length = inputs["input_ids"].shape[1]
    keys = row_keys([row.request.row_id for row in rows]).to(inputs["input_ids"].device)
    eos_ids = () if rows[0].forced else lmm.eos_ids
    next_token = NextToken(keys, sampling, prompt_length, eos_ids)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max(row.limit for row in rows),
        eos_token_id=list(eos_ids) or None,
        pad_token_id=lmm.tokenizer.pad_token_id,
    )
    out = lmm.model.generate(
        **inputs,
        generation_config=config,
        logits_processor=LogitsProcessorList([_Bias(edit), next_token]),
        past_key_values=growing_cache(lmm.model.config),
    )
    answers = []
    steps = zip(rows, out[:, prompt_length:].tolist(), next_token.failed_at.tolist(), strict=True)
    for row, generated, failed_at in steps:
        tokens = _said(generated[: row.limit], eos_ids)
        # Behind its end, a row is padding whose logits are nobody's affair.
        failed = failed_at if failed_at < len(tokens) else None
        answers.append(response(lmm, row.request, tokens, failed, row.forced))
    return answers


def _said(tokens: list[int], eos_ids: Sequence[int]) -> list[int]:
    """Tokens up to the first that ends the answer, it included."""
    end = next((at for at, token in enumerate(tokens, 1) if token in eos_ids), None)
    return tokens[:end]


class _Bias(LogitsProcessor):
    """An edit's bias, before anything else sees the logits."""

    def __init__(self, edit: Edit) -> None:
        self.edit = edit

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.edit.biased(scores)
