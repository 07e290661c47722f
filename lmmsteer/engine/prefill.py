"""From pictures and prompts to rows that are ready to decode: each thing computed once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor

from lmmsteer.engine.attention import Enough, Groups, working
from lmmsteer.engine.hooks import Directions, kinds_of
from lmmsteer.engine.pictures import PICTURES, Ahead, FeatureCache, encoded
from lmmsteer.engine.rows import Group, Place, Ready, Shown, Suffix
from lmmsteer.engine.sampling import Draws, nonfinite, row_keys
from lmmsteer.engine.slots import Slots
from lmmsteer.engine.stats import Stats
from lmmsteer.engine.store import Passing
from lmmsteer.engine.works import PrefixWork, SuffixWork

T = TypeVar("T")
TOKENS = 4096  # Tokens of one prefill call: beyond, larger calls bring nothing.
ENOUGH = 256  # Tokens that make a call of matrices about as efficient as it gets.


class Prefill:
    """Computes what rows share, in calls that hold as many pictures as is useful (strict: one)."""

    def __init__(self, slots: Slots, ahead: Ahead, cache: FeatureCache, stats: Stats) -> None:
        self.lmm, self.decoding, self.lanes = slots.lmm, slots.decoding, slots.lanes
        self.edit, self.sampling, self.rules = slots.edit, slots.sampling, slots.rules
        self.one_by_one, self.chunk = slots.shape.one_by_one, slots.shape.chunk
        self.bucket = slots.shape.bucket
        self.ahead, self.cache, self.stats = ahead, cache, stats
        self.device = slots.device
        self.cross = self.decoding.cross_layers(self.lmm)
        self.passing = Passing(self.lmm.n_layers, torch.zeros(1, 1, 1, 1, device=self.device))
        if self.edit.blind:
            self._open_cross()

    def _open_cross(self) -> None:
        """Room for cross-attention keys where no picture has made it yet: lanes without any."""
        config = self.lmm.model.config.get_text_config()
        heads, width = config.num_attention_heads, self.lmm.d_model
        for layer in self.cross - set(self.lanes.cross):
            shape = (1, config.num_key_value_heads, 1, width // heads)
            nothing = torch.zeros(shape, dtype=self.lmm.dtype, device=self.device)
            self.lanes.write(layer, [0], nothing, nothing)
            self.lanes.cross[layer] = torch.ones_like(self.lanes.lengths)

    def run(self, groups: Sequence[Group], directions: Directions | None) -> list[Ready]:
        """Fill the groups' lanes and sample every row's first token."""
        shown = [self._show(group) for group in groups]
        streams = [shown, *self._shadows(shown)]
        with self._timed("vision"):
            for seen in streams:
                self._see([one for one in seen if not one.blind])
        suffixes: list[Suffix] = []
        with self._timed("prefix"):
            for seen in streams:
                for batch in self._batches(seen, lambda one: len(one.prefix), same=True):
                    suffixes += self._prefix(batch, directions)
        waiting = [suffix for suffix in suffixes if suffix.ids]
        with self._timed("suffix"):
            for batch in self._batches(waiting, lambda one: len(one.ids), same=False):
                self._suffix(batch, directions)
            of = {(id(suffix.shown.group), suffix.prompt): suffix for suffix in suffixes}
            return [
                one
                for suffix in suffixes
                if not suffix.shown.group.stream
                for one in self._first_tokens(
                    [of[id(group), suffix.prompt] for group in suffix.shown.group.all]
                )
            ]

    def _show(self, group: Group) -> Shown:
        picture = self.ahead.take()
        prompts = dict.fromkeys(row.prompt for row in group.rows)
        ids = {prompt: self.lmm.token_ids(prompt, picture.shown) for prompt in prompts}
        cut = {p: self.decoding.split(self.lmm, found) for p, found in ids.items()}
        prefixes = {tuple(found[: cut[p]]) for p, found in ids.items()}
        if len(prefixes) > 1:
            raise RuntimeError("the text before the picture differs between prompts")
        suffixes = {p: tuple(found[cut[p] :]) for p, found in ids.items()}
        prefix = prefixes.pop()
        if self.edit.blind:
            prefix = tuple(self.lmm.without_picture(prefix, "removed"))
        return Shown(group, picture, prefix, suffixes, blind=self.edit.blind)

    def _shadows(self, shown: Sequence[Shown]) -> list[list[Shown]]:
        """What the contrast streams are shown instead, stream by stream."""
        return [
            [self._shadow(one, one.group.shadows[at], stream) for one in shown]
            for at, stream in enumerate(self.edit.streams)
        ]

    def _shadow(self, shown: Shown, group: Group, stream: str) -> Shown:
        prefix = tuple(self.lmm.without_picture(shown.prefix, stream))
        noise = stream == "noise"
        picture = shown.picture.noise(group.image_id) if noise else shown.picture
        return Shown(group, picture, prefix, shown.suffixes, blind=not noise)

    def _see(self, shown: Sequence[Shown]) -> None:
        """Vision features of each picture, from the cache or by the tower, then the edit's."""
        size = 1 if self.one_by_one else PICTURES
        found, seen = encoded(self.lmm, [one.picture for one in shown], self.cache, size)
        self.stats.encoded += seen
        for one, features in zip(shown, found, strict=True):
            rule = self.edit.features
            one.features = features if rule is None else rule.apply(features)

    def _prefix(self, batch: Sequence[Shown], directions: Directions | None) -> list[Suffix]:
        lanes = [one.group.lane for one in batch]
        ids = torch.tensor([one.prefix for one in batch], device=self.device)
        pictures = [one.picture for one in batch]
        features = [one.features for one in batch if one.features is not None]
        arguments = self.decoding.prefix(self.lmm, ids, pictures, features)
        self.lanes.set_lengths(lanes, ids.shape[1])
        if directions is not None:
            directions.choose([one.group.directions for one in batch])
            directions.look(kinds_of(ids, self.lmm.image_token_id))
        # Where the prompt is part of the prefix, its logits are wanted.
        whole = [at for at, one in enumerate(batch) if not all(one.suffixes.values())]
        work = PrefixWork(
            self.lanes,
            lanes,
            causal=self.decoding.causal,
            sees=self.decoding.sees(self.lmm, ids),
            cross_layers=self.cross,
            valid=[self.decoding.valid(self.lmm, picture) for picture in pictures],
            span=ids.shape[1] + max(map(_longest, batch)),
            last=None if whole else max(self.lmm.n_layers - 1, *self.cross, 0),
            blind=batch[0].blind,
        )
        hidden = None
        with working(work), suppress(Enough):
            hidden = self._decode(arguments)
        self.stats.prefixes += len(batch)
        found = [Suffix(one, p, s) for one in batch for p, s in one.suffixes.items()]
        if hidden is not None:
            logits = self._logits(hidden[whole, -1])
            of = {id(batch[at]): logits[i : i + 1] for i, at in enumerate(whole)}
            for suffix in found:
                suffix.logits = of.get(id(suffix.shown))
        return found

    def _suffix(self, batch: Sequence[Suffix], directions: Directions | None) -> None:
        lanes = [suffix.shown.group.lane for suffix in batch]
        used = sorted(set(lanes))
        picked = self.lanes.pick(used)
        at = [used.index(lane) for lane in lanes]
        width = max(at.count(lane) for lane in set(at))
        work = SuffixWork(
            self.lanes,
            picked,
            Groups(at, len(used), width, self.device),
            self.lanes.longest(used) if self.bucket == 1 else self.lanes.room(),
            self.chunk,
        )
        longest = max(len(suffix.ids) for suffix in batch)
        length = -(-longest // self.bucket) * self.bucket
        ids = torch.tensor([[*s.ids, *[0] * (length - len(s.ids))] for s in batch])
        starts = torch.tensor([self._start(suffix) for suffix in batch])
        positions = (starts[:, None] + torch.arange(length)).to(self.device)
        if directions is not None:
            directions.choose([suffix.shown.group.directions for suffix in batch])
            directions.look("prompt")
        unlike = self.edit.blind or self.edit.streams
        blind = [suffix.shown.blind for suffix in batch] if unlike else None
        unseeing = None if blind is None else torch.tensor(blind, device=self.device)
        arguments = self.decoding.behind(self.lmm, ids.to(self.device), positions, unseeing)
        with working(work):
            hidden = self._decode(arguments)
        last = torch.tensor([len(suffix.ids) - 1 for suffix in batch], device=self.device)
        logits = self._logits(hidden[torch.arange(len(batch), device=self.device), last])
        for index, suffix in enumerate(batch):
            suffix.logits, suffix.kept, suffix.index = logits[index : index + 1], work.kept, index
        self.stats.suffixes += len(batch)

    def _first_tokens(self, suffixes: Sequence[Suffix]) -> Iterator[Ready]:
        """Of the rows with one prompt. suffixes: their own, then those of their streams."""
        rows = [r for r in suffixes[0].shown.group.rows if r.prompt == suffixes[0].prompt]
        raw = torch.stack([one.logits for one in suffixes if one.logits is not None])
        mixed = raw[0] if self.edit.contrast is None else self.edit.contrast.mix(raw[0], raw[1:])
        keys = row_keys([row.request.row_id for row in rows]).to(self.device)
        logits = self._ruled(mixed.expand(len(rows), -1), [row.index for row in rows], keys)
        failed = nonfinite(logits).tolist()
        tokens = Draws(keys, 0, self.sampling)(logits).tolist()
        places = [
            Place(one.shown.group, one, self._start(one) + len(one.ids), one.shown.blind)
            for one in suffixes
        ]
        for row, token, bad in zip(rows, tokens, failed, strict=True):
            yield Ready(row, token, bad, places)

    def _ruled(self, logits: Tensor, requests: Sequence[int], keys: Tensor) -> Tensor:
        """Logits under the edit's rules; in strict mode, each row by itself."""
        if not self.one_by_one:
            draw = Draws(keys, 0, self.sampling)
            return self.rules.first(logits, requests, draw, dense=False)
        alone = zip(logits.split(1), requests, keys.split(1), strict=True)
        return torch.cat(
            [
                self.rules.first(z, [of], Draws(k, 0, self.sampling), dense=True)
                for z, of, k in alone
            ]
        )

    def _start(self, suffix: Suffix) -> int:
        shown = suffix.shown
        return self.decoding.start(self.lmm, shown.prefix, shown.picture)

    def _decode(self, arguments: dict[str, Any]) -> Tensor:
        return self.decoding.run(self.lmm, arguments, self.passing)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.decoding.logits(self.lmm, hidden).float()

    def _batches(
        self, items: Sequence[T], size: Callable[[T], int], *, same: bool
    ) -> Iterator[list[T]]:
        """Items in calls of at most TOKENS tokens, by size; same: of one size only.

        Items of several sizes are padded to the longest; where a call has ENOUGH tokens without
        the next item, that one joins only if it makes no more than an eighth of the call padding.
        """
        batch: list[T] = []
        tokens = 0
        for item in sorted(items, key=size):
            padded = (len(batch) + 1) * size(item)
            waste = padded - tokens - size(item)
            full = padded > TOKENS or self.one_by_one or (tokens >= ENOUGH and 8 * waste > padded)
            if batch and (full or (same and size(batch[0]) != size(item))):
                yield batch
                batch, tokens = [], 0
            batch.append(item)
            tokens += size(item)
        if batch:
            yield batch

    def _timed(self, stage: str) -> Any:
        return _Timed(self.stats, stage)


def _longest(shown: Shown) -> int:
    """Own tokens that a row behind this prefix may come to have."""
    return max(len(shown.suffixes[row.prompt]) + row.limit for row in shown.group.rows)


class _Timed:
    def __init__(self, stats: Stats, stage: str) -> None:
        self.stats, self.stage = stats, stage

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        spent = getattr(self.stats, self.stage) + time.perf_counter() - self.started
        setattr(self.stats, self.stage, spent)
