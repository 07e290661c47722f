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
from transformers import GenerationConfig, LogitsProcessorList

from lmmsteer.engine.cache import growing_cache
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.hooks import Directions, installed
from lmmsteer.engine.sampling import NEVER, NextToken, Sampling, row_keys
from lmmsteer.models.lmm import Lmm, PreparedPicture
from lmmsteer.schema import Request, Response


@dataclass(frozen=True)
class _Row:
    """One row on its way: where it stands among the requests, and what the model is shown."""

    index: int
    request: Request
    prompt: str
    picture: PreparedPicture
    length: int


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
    ) -> Iterator[Response]:
        """One response for each request, in the requests' order.

        pictures: RGB, by image id. text is the decoded token ids without special tokens, stripped
        of white space at both ends. A row whose logits are not finite is an error `nonfinite`, one
        whose prompt cannot be shown `prompt_refused`; the others do not notice.
        """
        prompts = edit.prompts or tuple(request.prompt for request in requests)
        done: dict[int, Response] = {}
        rows = []
        prepared = {i: lmm.prepare(pictures[i]) for i in {r.image_id: None for r in requests}}
        for index, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            if refusal := lmm.refusal(prompt):
                done[index] = Response.failed(request, "prompt_refused", refusal)
            else:
                picture = prepared[request.image_id]
                length = len(lmm.token_ids(prompt, picture.tokens))
                rows.append(_Row(index, request, prompt, picture, length))
        rows.sort(key=lambda row: (row.length, row.prompt))
        emitted = 0
        for start in range(0, len(rows), self.slots):
            batch = rows[start : start + self.slots]
            with self.edited(lmm, edit):
                answers = _answer(lmm, batch, sampling)
            done.update(zip((row.index for row in batch), answers, strict=True))
            while emitted in done:
                yield done.pop(emitted)
                emitted += 1
        yield from (done[index] for index in sorted(done))


@torch.inference_mode()
def _answer(lmm: Lmm, rows: Sequence[_Row], sampling: Sampling) -> list[Response]:
    inputs = lmm.inputs([row.prompt for row in rows], [row.picture for row in rows])
    prompt_length = inputs["input_ids"].shape[1]
    keys = row_keys([row.request.row_id for row in rows]).to(inputs["input_ids"].device)
    next_token = NextToken(keys, sampling, prompt_length, lmm.eos_ids)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=list(lmm.eos_ids) or None,
        pad_token_id=lmm.tokenizer.pad_token_id,
    )
    out = lmm.model.generate(
        **inputs,
        generation_config=config,
        logits_processor=LogitsProcessorList([next_token]),
        past_key_values=growing_cache(lmm.model.config),
    )
    failed_at = next_token.failed_at.tolist()
    generated = out[:, prompt_length:].tolist()
    return [
        _response(lmm, row.request, tokens, failed)
        for row, tokens, failed in zip(rows, generated, failed_at, strict=True)
    ]


def _response(lmm: Lmm, request: Request, tokens: list[int], failed_at: int) -> Response:
    end = next((at for at, token in enumerate(tokens) if token in lmm.eos_ids), None)
    if failed_at != NEVER and failed_at <= (len(tokens) if end is None else end):
        return Response.failed(
            request, "nonfinite", f"the logits at step {failed_at} are not finite"
        )
    kept = tokens if end is None else tokens[:end]
    text = lmm.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Response(
        row_id=request.row_id,
        image_id=request.image_id,
        prompt_id=request.prompt_id,
        seed=request.seed,
        text=text.strip(),
        token_ids=kept,
        new_tokens=len(kept),
        finish_reason="length" if end is None else "eos",
    )
