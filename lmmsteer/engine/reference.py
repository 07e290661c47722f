"""The reference engine: transformers' own generate, with hooks and one logits rule.

The oracle in tests; on Gaudi cards optimum-habana's generate. Knows nothing of files, data sets or
Ray.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from lmmsteer.engine import gaudi
from lmmsteer.engine.cache import growing_cache
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.hooks import Directions, installed, kinds_of, projecting
from lmmsteer.engine.rows import Row, plan_rows, refuse_unseeing, response
from lmmsteer.engine.sampling import Draws, NextToken, Sampling, row_keys
from lmmsteer.engine.stats import Stats
from lmmsteer.models.lmm import Lmm, PreparedPicture
from lmmsteer.models.qwen import remembered_positions
from lmmsteer.schema import Request, Response


@dataclass(eq=False)
class Reference:
    """Batches of `slots` rows through transformers' generate.

    Which rows share a batch follows from the requests alone: rows are taken by the length of
    their input, then by prompt, since answers to one prompt end at about the same time.
    stats: of the last run; its stages are not told apart, all time is `decode`.
    """

    slots: int = 32
    stats: Stats = field(default_factory=Stats)
    _directions: dict[Hashable, Directions] = field(default_factory=dict)
    _of: weakref.ref[Lmm] | None = None

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
        self.stats = Stats(slots=self.slots, why=f"{self.slots} slots")
        refuse_unseeing(lmm, edit)
        if lmm.adapted:
            gaudi.refuse(edit)
            if sampling.temperature > 0:
                gaudi.check_noise(lmm.device.torch_device())
        compiled = lmm.device.compiled_graphs()
        known = self._kept(lmm, edit) if lmm.adapted else None
        rows, done = plan_rows(lmm, requests, edit, sampling.max_new_tokens, lengths)
        shown = {row.request.image_id: None for row in rows}
        prepared = {image_id: lmm.prepare(pictures[image_id]) for image_id in shown}
        tokens = {
            row.index: len(lmm.token_ids(row.prompt, prepared[row.request.image_id].shown))
            for row in rows
        }
        rows.sort(key=lambda row: (tokens[row.index], row.prompt))
        if lmm.adapted and lmm.device.lazy:
            self._warm(lmm, rows, tokens, prepared, edit, sampling, known)
        emitted = 0
        for start in range(0, len(rows), self.slots):
            batch = rows[start : start + self.slots]
            started = time.perf_counter()
            if lmm.adapted:
                full = self._full(batch)
                found = _answer_adapted(lmm, full, prepared, edit, sampling, known, self.stats)
                answers = found[: len(batch)]
            else:
                of = [row.directions for row in batch]
                with installed(lmm, edit, of) as directions, projecting(lmm, edit):
                    answers = _answer(lmm, batch, prepared, edit, sampling, directions, self.stats)
            self.stats.decode += time.perf_counter() - started
            self.stats.compiled = lmm.device.compiled_graphs() - compiled
            self.stats.tokens += sum(answer.new_tokens or 0 for answer in answers)
            done.update(zip((row.index for row in batch), answers, strict=True))
            while emitted in done:
                yield done.pop(emitted)
                emitted += 1
        yield from (done[index] for index in sorted(done))

    def _full(self, batch: Sequence[Row]) -> list[Row]:
        """As many rows as there are slots; the last one again and again."""
        return [*batch, *[batch[-1]] * (self.slots - len(batch))]

    def _warm(
        self,
        lmm: Lmm,
        rows: Sequence[Row],
        tokens: Mapping[int, int],
        prepared: Mapping[str, PreparedPicture],
        edit: Edit,
        sampling: Sampling,
        known: Directions | None,
    ) -> None:
        """Record prompt and step of every padded length before the first answer: a batch of each
        is begun, and what it says is dropped.
        """
        started, compiled = time.perf_counter(), lmm.device.compiled_graphs()
        batches = [rows[start : start + self.slots] for start in range(0, len(rows), self.slots)]
        # Rows come by their length.
        each = {gaudi.padded_length(tokens[batch[-1].index]): batch for batch in batches}
        for batch in each.values():
            full = self._full(batch)
            _answer_adapted(lmm, full, prepared, edit, sampling, known, self.stats, steps=2)
        self.stats.warmed = lmm.device.compiled_graphs() - compiled
        self.stats.steps = self.stats.busy = 0
        self.stats.warm = time.perf_counter() - started

    def _kept(self, lmm: Lmm, edit: Edit) -> Directions | None:
        """The edit's directions in memory that recorded steps read; those call no hook again."""
        if edit.residual is None:
            return None
        if self._of is None or self._of() is not lmm:
            self._directions.clear()
            self._of = weakref.ref(lmm)  # A model that nobody else wants must be free to go.
        made = Directions(edit.residual, lmm)
        known = self._directions.setdefault(made.structure, made)
        if known is not made:
            fired = set(known.fired)
            known.load(edit.residual)
            known.fired |= fired
        return known


@torch.inference_mode()
def _answer(
    lmm: Lmm,
    rows: Sequence[Row],
    prepared: Mapping[str, PreparedPicture],
    edit: Edit,
    sampling: Sampling,
    directions: Directions | None,
    stats: Stats,
) -> list[Response]:
    pictures = [prepared[row.request.image_id] for row in rows]
    inputs = lmm.inputs([row.prompt for row in rows], pictures, blind=edit.blind)
    prompt_length = inputs["input_ids"].shape[1]
    keys = row_keys([row.request.row_id for row in rows]).to(inputs["input_ids"].device)
    eos_ids = () if rows[0].forced else lmm.eos_ids
    next_token = NextToken(keys, sampling, prompt_length, eos_ids)
    streams = _Streams(lmm, rows, prepared, edit, prompt_length, directions)
    rules = _Rules(edit, [row.index for row in rows], prompt_length, keys, sampling)
    if directions is not None:
        directions.look(kinds_of(inputs["input_ids"], lmm.image_token_id))
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max(row.limit for row in rows),
        eos_token_id=list(eos_ids) or None,
        pad_token_id=lmm.tokenizer.pad_token_id,
    )
    out = lmm.model.generate(
        **inputs,
        generation_config=config,
        logits_processor=LogitsProcessorList([_Steps(stats), streams, rules, next_token]),
        past_key_values=growing_cache(lmm.model.config),
    )
    return _responses(lmm, rows, out[:, prompt_length:], next_token.failed_at, eos_ids)


@torch.inference_mode()
def _answer_adapted(
    lmm: Lmm,
    rows: Sequence[Row],
    prepared: Mapping[str, PreparedPicture],
    edit: Edit,
    sampling: Sampling,
    directions: Directions | None,
    stats: Stats,
    steps: int | None = None,
) -> list[Response]:
    """The same by optimum-habana's generate, every call of one shape. steps: no more than so many,
    of as many as there is room for.
    """
    pictures = [prepared[row.request.image_id] for row in rows]
    found = lmm.inputs([row.prompt for row in rows], pictures, blind=edit.blind)
    inputs = gaudi.padded(dict(found), lmm.tokenizer.pad_token_id)
    device, prompt_length = inputs["input_ids"].device, inputs["input_ids"].shape[1]
    keys = row_keys([row.request.row_id for row in rows]).to(device)
    eos_ids = () if rows[0].forced else lmm.eos_ids
    requests = [row.index for row in rows]
    numbers = [rule.rows if rule.rows is None else rule.rows[requests] for rule in edit.rules]
    numbers = [of if of is None else of.to(device) for of in numbers]
    chosen = gaudi.Chosen(edit, numbers, keys, sampling, eos_ids, steps)
    most = max(row.limit for row in rows) if rows[0].forced else sampling.max_new_tokens
    structure = ("unsteered",) if directions is None else directions.structure
    if edit.features is not None:
        structure = None  # Hooks on the projector read what is another tensor for each shard.
    with (
        gaudi.graphed(lmm, structure),
        installed(lmm, edit, known=directions) as placed,
        projecting(lmm, edit),
    ):
        if placed is not None:
            placed.choose_slots([row.directions for row in rows])
        out = gaudi.generate(lmm, inputs, chosen, most, [_Steps(stats)])
    return _responses(lmm, rows, out[:, prompt_length:], chosen.failed_at, eos_ids)


def _responses(
    lmm: Lmm, rows: Sequence[Row], generated: Tensor, failed_at: Tensor, eos_ids: Sequence[int]
) -> list[Response]:
    """Each row's answer. generated: [rows, tokens]. failed_at: [rows], a step or NEVER."""
    answers = []
    for row, ids, failed in zip(rows, generated.tolist(), failed_at.tolist(), strict=True):
        tokens = _said(ids[: row.limit], eos_ids)
        # Behind its end, a row is padding whose logits are nobody's affair.
        at = failed if failed < len(tokens) else None
        answers.append(response(lmm, row.request, tokens, at, row.forced))
    return answers


def _said(tokens: list[int], eos_ids: Sequence[int]) -> list[int]:
    """Tokens up to the first that ends the answer, it included."""
    end = next((at for at, token in enumerate(tokens, 1) if token in eos_ids), None)
    return tokens[:end]


class _Steps(LogitsProcessor):
    """Counts decode steps, so that whoever looks on sees that there is progress."""

    def __init__(self, stats: Stats) -> None:
        self.stats = stats

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.stats.steps += 1
        self.stats.busy += scores.shape[0]
        return scores


class _Streams(LogitsProcessor):
    """An edit's contrast streams: each row once more as the stream is shown it, from nothing.

    A forward pass over all that stands there, at every step and for each row alone: slow, and
    simple enough to be held against.
    """

    def __init__(
        self,
        lmm: Lmm,
        rows: Sequence[Row],
        prepared: Mapping[str, PreparedPicture],
        edit: Edit,
        prompt_length: int,
        directions: Directions | None,
    ) -> None:
        self.lmm, self.rows, self.prepared, self.edit = lmm, rows, prepared, edit
        self.prompt_length, self.directions = prompt_length, directions

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        contrast = self.edit.contrast
        if contrast is not None:
            said = input_ids[:, self.prompt_length :]
            streams = [self._stream(stream, said) for stream in contrast.streams]
            if self.directions is not None:
                self.directions.choose([row.directions for row in self.rows])
            scores = contrast.mix(scores.float(), torch.stack(streams))
        if self.directions is not None:
            self.directions.look("generated")
        return scores

    def _stream(self, stream: str, said: Tensor) -> Tensor:
        alone = zip(self.rows, said, strict=True)
        return torch.cat([self._logits(stream, row, tokens) for row, tokens in alone])

    def _logits(self, stream: str, row: Row, said: Tensor) -> Tensor:
        image_id = row.request.image_id
        picture = self.prepared[image_id]
        picture = picture.noise(image_id) if stream == "noise" else picture
        inputs = self.lmm.stream_inputs(row.prompt, picture, stream, said.tolist())
        if self.directions is not None:
            self.directions.choose([row.directions])
            ids = inputs["input_ids"]
            length = ids.shape[1] - len(said)
            self.directions.look(kinds_of(ids, self.lmm.image_token_id, length))
        with remembered_positions(self.lmm.model):
            return self.lmm.model(**inputs, use_cache=False).logits[:, -1].float()


class _Rules(LogitsProcessor):
    """An edit's rules, in their order, with what they remember of each row."""

    def __init__(
        self,
        edit: Edit,
        requests: Sequence[int],
        prompt_length: int,
        keys: Tensor,
        sampling: Sampling,
    ) -> None:
        self.rules, self.requests, self.prompt_length = edit.rules, requests, prompt_length
        self.keys, self.sampling = keys, sampling
        self.memories: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.float()
        count, device = scores.shape[0], scores.device
        if input_ids.shape[1] == self.prompt_length:
            self.memories = [rule.start(count, device) for rule in self.rules]
        else:
            said = zip(self.rules, self.memories, strict=True)
            self.memories = [rule.advance(memory, input_ids[:, -1]) for rule, memory in said]
        draw = Draws(self.keys, input_ids.shape[1] - self.prompt_length, self.sampling)
        for rule, memory in zip(self.rules, self.memories, strict=True):
            of = None if rule.rows is None else rule.rows[list(self.requests)].to(device)
            scores = rule.apply(scores, memory, of, dense=True, draw=draw)
        return scores
