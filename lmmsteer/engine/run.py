"""One generation from requests to responses: lanes are filled, slots decode, a free slot is filled.

What happens in which order follows from the requests and the slot count alone, never from time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Container, Mapping, Sequence

from PIL import Image

from lmmsteer.engine.hooks import Directions
from lmmsteer.engine.pictures import Ahead, FeatureCache
from lmmsteer.engine.prefill import Prefill, Ready
from lmmsteer.engine.rows import Group, Row, grouped, plan_rows, refuse_unseeing, response
from lmmsteer.engine.slots import Slots
from lmmsteer.engine.stats import Stats
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Request


class Run:
    """Answers a list of requests: `advance` until `done`; `finished` holds responses by row.

    only: the rows to be answered, by index (None: all).
    """

    def __init__(
        self,
        slots: Slots,
        requests: Sequence[Request],
        pictures: Mapping[str, Image.Image],
        cache: FeatureCache,
        stats: Stats,
        lengths: Sequence[int] | None = None,
        only: Container[int] | None = None,
    ) -> None:
        lmm, edit, shape = slots.lmm, slots.edit, slots.shape
        self.lmm, self.slots, self.shape, self.stats = lmm, slots, shape, stats
        most = slots.sampling.max_new_tokens
        rows, self.finished = plan_rows(lmm, requests, edit, most, lengths)
        if only is not None:
            rows = [row for row in rows if row.index in only]
        self.wanted = 1 + len(edit.streams)  # Slots of a row, and lanes of a group.
        self._check(slots)
        groups = grouped(rows, slots.decoding.shares_prompts, shape.width, edit.streams)
        self.waiting = deque(groups)
        self.ready: deque[Ready] = deque()
        self.ahead = Ahead(lmm, pictures, [group.image_id for group in groups])
        self.free_lanes = list(range(shape.lanes))
        self.prefill = Prefill(slots, self.ahead, cache, stats)
        self.started = time.perf_counter()
        self._number = slots.runs
        self._for_slots = False  # Whether the directions chosen are those of the slots.

    def _check(self, slots: Slots) -> None:
        refuse_unseeing(self.lmm, slots.edit)
        if self.wanted > min(self.shape.slots, self.shape.lanes):
            raise LmmsteerError(
                f"engine.slots={self.shape.slots} does not hold a row and its contrast streams.",
                f"Set engine.slots={max(4, self.wanted)} or more",
            )

    @property
    def done(self) -> bool:
        return not (self.waiting or self.ready or self.slots.busy)

    def advance(self, directions: Directions | None) -> None:
        """Fill what is free, decode one token for every row, take in what has ended.

        Raises: RuntimeError where another run has begun on the same slots.
        """
        if self._number != self.slots.runs:
            raise RuntimeError("another run has begun on this engine; this one cannot go on")
        self._fill(directions)
        if not self.slots.busy:
            return
        started = time.perf_counter()
        if directions is not None and (self.slots.changed or not self._for_slots):
            directions.choose_slots(self.slots.directions())
            directions.look("generated")
            self._for_slots = True
        self.stats.steps += 1
        self.stats.busy += self.slots.busy
        for ended in self.slots.step():
            one = ended.active
            self._leave(one.group, ended.failed_at is not None)
            if not one.group.stream:
                self._answer(one.row, one.tokens, ended.failed_at)
        self.stats.decode += time.perf_counter() - started

    def _fill(self, directions: Directions | None) -> None:
        while self.slots.free >= self.wanted and (self.ready or self._prefill(directions)):
            room = min(self.slots.free // self.wanted, len(self.ready))
            if room:
                self.slots.join([self.ready.popleft() for _ in range(room)])
        self.slots.pack()
        if not self.waiting and not self.shape.fixed:
            self._close_lanes()

    def _prefill(self, directions: Directions | None) -> bool:
        """The next groups' prefixes and suffixes, as many as slots and lanes are free for."""
        groups: list[Group] = []
        expected = 0
        while (
            self.waiting
            and len(self.free_lanes) >= self.wanted
            and expected < self.slots.free // self.wanted
        ):
            group = self.waiting.popleft()
            for one in group.all:
                one.lane = self.free_lanes.pop(0)
            expected += len(group.rows)
            groups.append(group)
        if not groups:
            return False
        self._for_slots = False
        for one in self.prefill.run(groups, directions):
            self.stats.first_token(time.perf_counter() - self.started)
            if one.ended(self.lmm.eos_ids):
                self._answer(one.row, [one.token], 0 if one.failed else None)
                for place in one.places:
                    self._leave(place.group, one.failed)
            else:
                self.ready.append(one)
        return True

    def _answer(self, row: Row, tokens: Sequence[int], failed_at: int | None) -> None:
        self.finished[row.index] = response(self.lmm, row.request, tokens, failed_at, row.forced)
        self.stats.tokens += len(tokens)

    def _leave(self, group: Group, failed: bool) -> None:
        """A row, or its stream, needs its prefix no more."""
        group.left -= 1
        group.failed = group.failed or failed
        if not group.left:
            if group.failed:  # What is not finite would reach the lane's next prefix.
                self.slots.lanes.clear(group.lane)
            self.free_lanes = sorted([*self.free_lanes, group.lane])

    def _close_lanes(self) -> None:
        """Nothing waits: the last prefixes move into free lanes, so that none is read in vain."""
        held = {p.group.lane: p.group for one in self.ready for p in one.places}
        held |= self.slots.held()
        while held and self.free_lanes and self.free_lanes[0] < max(held):
            source, to = max(held), self.free_lanes.pop(0)
            self.slots.lanes.move(source, to)
            held[to] = held.pop(source)
            held[to].lane = to
            self.free_lanes = sorted([*self.free_lanes, source])
            self.slots.changed = True

    def close(self) -> None:
        self.stats.wait += self.ahead.wait
        self.ahead.close()
