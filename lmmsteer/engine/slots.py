"""Fixed slots: rows decode side by side; one that ends makes room for the next.

Without `fixed` the active rows stand in front, so that a call is as large as there are rows: a
row that ends with no successor is replaced by the last one. With `fixed` every call has all slots.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lmmsteer.engine.attention import Groups, working
from lmmsteer.engine.capture import Captured
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.gaudi import HpuCaptured, HpuCompiled
from lmmsteer.engine.rows import Group, Place, Ready, Row
from lmmsteer.engine.rules import Remembering, front, structure_of
from lmmsteer.engine.sampling import Draws, Sampling, nonfinite, row_keys
from lmmsteer.engine.shape import Shape, spare
from lmmsteer.engine.store import Lanes, Own, Passing
from lmmsteer.engine.works import DecodeWork
from lmmsteer.models.decoding import Decoding
from lmmsteer.models.lmm import Lmm

BUCKET = 128  # Own tokens are read in multiples of this where calls have fixed shapes.


@dataclass(eq=False)
class Active:
    """A row in a slot: what it has said, and how many own tokens its slot holds.

    shadows: the row's contrast streams, in slots of their own; one of these has the row as `main`.
    """

    row: Row
    group: Group
    tokens: list[int]
    length: int
    main: Active | None = None
    shadows: list[Active] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Ended:
    """A row that said its last token; failed_at: the step whose logits were not finite."""

    active: Active
    failed_at: int | None


class Slots:
    """The rows that decode, and their state on the device."""

    def __init__(self, lmm: Lmm, decoding: Decoding, shape: Shape) -> None:
        device, count = lmm.device.torch_device(), shape.slots
        self.lmm, self.decoding, self.shape, self.device = lmm, decoding, shape, device
        self.fixed = shape.fixed
        self.edit, self.sampling = Edit(), Sampling()
        self.structure: Hashable = None
        self.hooks: Hashable = None
        on_gaudi = lmm.device.kind == "hpu"
        block = shape.chunk or (BUCKET if on_gaudi else None)
        self.lanes = Lanes(shape.lanes, device, block, gathers=on_gaudi)
        own_block = shape.chunk or (BUCKET if shape.fixed else None)
        large = 0 if shape.fixed else spare(lmm) // (2 * lmm.n_layers)
        self.own = Own(
            count, device, own_block, at_once=on_gaudi, packed=not shape.fixed, large=large
        )
        self.active: list[Active | None] = [None] * count
        self.changed = True
        self.runs = 0
        self._groups: Groups | None = None
        self.rules = Remembering(count, device)
        self._known: dict[Hashable, Remembering] = {(): self.rules}
        self._passing = Passing(lmm.n_layers, torch.zeros(1, 1, 1, 1, device=device))
        self._mains: Tensor | None = None  # [rows], the slot of each slot's row
        self._others: Tensor | None = None  # [streams, rows], the slots of its streams
        self._prefix_keys = 0
        self._picked = slice(0, 0)
        self._tokens = torch.zeros(count, dtype=torch.long, device=device)
        self._position = torch.zeros(count, dtype=torch.long, device=device)
        self._step = torch.zeros(count, dtype=torch.int32, device=device)
        self._keys = torch.zeros(count, 2, dtype=torch.int32, device=device)
        self._blind = torch.zeros(count, dtype=torch.bool, device=device)
        self._graphs = shape.fixed and (device.type == "cuda" or lmm.device.records)
        kind = {"lazy": HpuCaptured, "compile": HpuCompiled}.get(lmm.device.mode or "", Captured)
        self._captured = kind(lambda: self._token(exact=False), self._state)
        self.recorded: Callable[[], None] = lambda: None  # Called for each step recorded.

    def begin(self, edit: Edit, sampling: Sampling, structure: Hashable) -> None:
        """From now on rows decode under this edit.

        structure: what a captured step depends on besides shapes, as far as hooks go.
        """
        self.edit, self.sampling = edit, sampling
        kind = tuple(structure_of(rule) for rule in edit.rules)
        self.rules = self._known.setdefault(kind, Remembering(len(self.active), self.device))
        self.rules.begin(edit.rules)
        self.hooks = structure
        self.structure = (structure, kind, edit.contrast, edit.blind, sampling)
        self.active = [None] * len(self.active)
        self.changed = True
        self.runs += 1

    def input_shape(self, ids: Sequence[int]) -> tuple[int, int]:
        """What prefill's shapes depend on besides the picture: tokens of prefix and suffix."""
        prefix, bucket = self.decoding.split(self.lmm, ids), self.shape.bucket
        return prefix, -(-(len(ids) - prefix) // bucket) * bucket

    def _state(self) -> tuple[Tensor, ...]:
        """What a step changes besides appending keys and values."""
        own = (self._tokens, self._position, self._step, self.own.lengths)
        return (*own, *self.rules.memories)

    @property
    def free(self) -> int:
        return self.active.count(None)

    @property
    def busy(self) -> int:
        return len(self.active) - self.free

    @property
    def size(self) -> int:
        """Rows of a call."""
        return len(self.active) if self.fixed else self.busy

    def held(self) -> dict[int, Group]:
        """The groups that decode, by lane."""
        return {one.group.lane: one.group for one in self.active if one is not None}

    def directions(self) -> list[int]:
        """The set of directions of each row of a call."""
        return [0 if one is None else one.row.directions for one in self.active[: self.size]]

    def join(self, ready: Sequence[Ready]) -> None:
        """Put rows and their streams into free slots, behind a copy of their suffixes' keys."""
        places = [(one, place) for one in ready for place in one.places]
        free = [slot for slot, one in enumerate(self.active) if one is None][: len(places)]
        most = max(len(place.suffix.ids) + one.row.limit for one, place in places)
        held = [slot for slot, one in enumerate(self.active) if one is not None]
        self.own.used = held[-1] + 1 if held else 0
        self.own.ensure(most + self.shape.window)
        self.own.open(self.lanes)
        self._copy_suffixes(free, [place for _, place in places])
        at = torch.tensor(free, device=self._tokens.device)
        self._tokens[at] = at.new_tensor([one.token for one, _ in places])
        self._position[at] = at.new_tensor([place.position for _, place in places])
        blind = [place.blind for _, place in places]
        self._blind[at] = torch.tensor(blind, device=at.device)
        self._step[at] = 1
        keys = row_keys([one.row.request.row_id for one, _ in places])
        self._keys[at] = keys.to(at.device)
        self.rules.join(at, [one.row.index for one, _ in places], self._tokens[at])
        made = [self._active(one) for one in ready]
        for slot, one in zip(free, [a for row in made for a in (row, *row.shadows)], strict=True):
            self.active[slot] = one
        self.changed = True

    def _active(self, ready: Ready) -> Active:
        main, *others = [
            Active(ready.row, place.group, [ready.token], len(place.suffix.ids))
            for place in ready.places
        ]
        main.shadows = others
        for one in others:
            one.main = main
        return main

    def _copy_suffixes(self, slots: Sequence[int], places: Sequence[Place]) -> None:
        calls: dict[int, list[tuple[int, Place]]] = {}
        for slot, one in zip(slots, places, strict=True):
            calls.setdefault(id(one.suffix.kept), []).append((slot, one))
        for members in calls.values():
            lengths = [len(one.suffix.ids) for _, one in members]
            into = [slot for slot, _ in members]
            rows = [one.suffix.index for _, one in members]
            self.own.put(into, members[0][1].suffix.kept, rows, lengths)

    def step(self) -> list[Ended]:
        """Up to `window` tokens for every row; the rows that ended with one leave their slots."""
        if self.changed:
            self._regroup()
        longest = max(one.length for one in self.active if one is not None)
        moved = self.own.reach(longest + self.shape.window, exact=not self.fixed)
        if moved or self.lanes.moved:
            self._captured.forget()
            self.lanes.moved = False
        self.own.look_ahead(self.size)
        before = [tensor.clone() for tensor in self._state()] if self._graphs else []
        outcomes = [self._one(exact=not self._graphs) for _ in range(self.shape.window)]
        tokens, bad, crowded = torch.stack(outcomes).unbind(1)
        if self._graphs and bool(crowded.any()):  # Rare: once more, looking at every token.
            self._captured.restore(before)
            outcomes = [self._token(exact=True) for _ in range(self.shape.window)]
            tokens, bad, _ = torch.stack(outcomes).unbind(1)
        return self._harvest(tokens.tolist(), bad.tolist())

    def _one(self, *, exact: bool) -> Tensor:
        if not self._graphs:
            return self._token(exact=exact)
        if self._key() not in self._captured and not self._captured.failed:
            self._warm()
        return self._captured(self._key()).clone()

    def _key(self) -> Hashable:
        """What a recorded step depends on."""
        return (self.structure, self.own.longest, self.lanes.ragged(self._prefix_keys))

    def _warm(self) -> None:
        """Record the step; on Gaudi cards, where a graph takes long to compile, for every length
        that rows may come to, before the first of them is answered.
        """
        now, block = self.own.longest, self.own.block
        gaudi = self.lmm.device.kind == "hpu"
        for longest in range(block, self.own.room + 1, block) if gaudi else (now,):
            self.own.longest = longest
            if self._captured.prepare(self._key()):
                self.recorded()
        self.own.longest = now

    def _token(self, *, exact: bool) -> Tensor:
        """One token for every row: [3, rows], the token, not finite, crowded (see choose_among)."""
        size = self.size
        assert self._groups is not None
        work = DecodeWork(
            self.lanes, self._picked, self._groups, self._prefix_keys, self.own, self.shape.chunk
        )
        tokens, positions = self._tokens[:size, None], self._position[:size, None]
        unlike = self.edit.blind or self.edit.contrast is not None
        blind = self._blind[:size] if unlike else None
        arguments = self.decoding.behind(self.lmm, tokens, positions, blind)
        with working(work):
            hidden = self.decoding.run(self.lmm, arguments, self._passing)
        logits = self.logits(hidden[:, -1])
        if self.edit.contrast is not None:
            assert self._mains is not None
            assert self._others is not None
            logits = self.edit.contrast.mix(logits[self._mains], logits[self._others])
        draw = Draws(self._keys[:size], self._step[:size], self.sampling, exact=exact)
        logits = self.rules.apply(logits, draw, dense=self.fixed)
        bad = nonfinite(logits)
        chosen = draw(logits)
        front(self._tokens, size).copy_(chosen)
        self.rules.advance(chosen)
        for counted in (self._position, self._step, self.own.lengths):
            front(counted, size).add_(1)
        return torch.stack([chosen, bad.to(chosen.dtype), draw.crowded.to(chosen.dtype)])

    def logits(self, hidden: Tensor) -> Tensor:
        """The model's own, float32. hidden: [rows, d_model]."""
        return self.decoding.logits(self.lmm, hidden).float()

    def _regroup(self) -> None:
        """Which row reads which lane; in fixed calls in the memory that a captured step reads."""
        lane_of = [-1 if one is None else one.group.lane for one in self.active[: self.size]]
        count = len(self.lanes) if self.fixed else max(lane_of) + 1
        groups = Groups(lane_of, count, self.shape.width, self._tokens.device)
        if self.fixed and self._groups is not None:
            self._groups.rows.copy_(groups.rows)
            self._groups.back.copy_(groups.back)
        else:
            self._groups = groups
        self._picked = slice(0, count)
        if self.edit.contrast is not None:
            self._pair()
        keys = self.lanes.room() if self.fixed else self.lanes.longest(list(self.held()))
        if keys != self._prefix_keys:
            self._captured.forget()
        self._prefix_keys = keys
        self.changed = False

    def _pair(self) -> None:
        """Which slots are streams of which: all of a row draw their token from the same logits."""
        slot_of = {id(one): slot for slot, one in enumerate(self.active) if one is not None}
        mains, others = [], []
        for slot, one in enumerate(self.active[: self.size]):
            main = None if one is None else one.main or one
            mains.append(slot if main is None else slot_of[id(main)])
            shadows = [] if main is None else [slot_of[id(shadow)] for shadow in main.shadows]
            others.append(shadows or [slot] * len(self.edit.streams))
        new = torch.tensor(mains, device=self.device), torch.tensor(others, device=self.device).T
        if (
            self.fixed
            and self._mains is not None
            and self._others is not None
            and self._others.shape == new[1].shape
        ):
            self._mains.copy_(new[0])  # Captured steps read this memory.
            self._others.copy_(new[1])
        else:
            self._captured.forget()
            self._mains, self._others = new[0], new[1].contiguous()

    def _harvest(self, tokens: list[list[int]], bad: list[list[int]]) -> list[Ended]:
        """What the rows said in a window; what a row says after its end is thrown away."""
        ended = []
        for slot, one in enumerate(self.active[: self.size]):
            if one is None:
                continue
            one.length += len(tokens)
            if (end := self._listen(one, slot, tokens, bad)) is not None:
                ended.append(end)
        for end in ended:
            slot = self.active.index(end.active)
            self.active[slot] = None
            self.changed = True
        if self.fixed and self.free:
            self._rest()
        if any(map(any, bad)):
            self._clear_free()
        return ended

    def _clear_free(self) -> None:
        """What is not finite would reach a slot's next row through its mask.

        Slots without a row too: they compute along with what some other row's attention was.
        """
        for slot, one in enumerate(self.active):
            if one is None:
                self.own.clear(slot)

    def _rest(self) -> None:
        """Slots without a row compute along; they begin anew, lest they outgrow their room."""
        idle = [slot for slot, one in enumerate(self.active) if one is None]
        at = torch.tensor(idle, device=self.device)
        for state in (self._position, self.own.lengths):
            state[at] = 0

    def _listen(
        self, one: Active, slot: int, tokens: list[list[int]], bad: list[list[int]]
    ) -> Ended | None:
        for said, failed in zip(tokens, bad, strict=True):
            one.tokens.append(said[slot])
            ending = said[slot] in self.lmm.eos_ids and not one.row.forced
            if failed[slot] or ending or len(one.tokens) >= one.row.limit:
                return Ended(one, len(one.tokens) - 1 if failed[slot] else None)
        return None

    def pack(self) -> None:
        """Close the holes: the last rows move into them. Nothing to do where calls are fixed."""
        if self.fixed:
            return
        while None in self.active[: self.busy]:
            hole = self.active.index(None)
            last = max(slot for slot, one in enumerate(self.active) if one is not None)
            one = self.active[last]
            assert one is not None
            self.own.move(last, hole, one.length)
            for state in (self._tokens, self._position, self._step, self._keys, self._blind):
                state[hole] = state[last]
            self.rules.move(last, hole)
            self.active[hole], self.active[last] = one, None
            self.changed = True
