"""The shared engine: a picture once, a prefix once, fixed slots, no row that waits for another."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from lmmsteer.engine import attention
from lmmsteer.engine.blocked import Copies, blocked
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.gaudi import check_noise
from lmmsteer.engine.hooks import Directions, installed
from lmmsteer.engine.pictures import PICTURES, FeatureCache, encoded
from lmmsteer.engine.run import Run
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.selftest import check_strict
from lmmsteer.engine.shape import copied, default_slots, fallbacks, shape_of
from lmmsteer.engine.slots import Slots
from lmmsteer.engine.stats import Stats
from lmmsteer.engine.warm import one_of_each_shape
from lmmsteer.errors import RunFailed
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm, PreparedPicture
from lmmsteer.schema import Request, Response


@dataclass(eq=False)
class Shared:
    """Rows of a picture share its vision features and its prefix; slots are refilled as rows end.

    slots: rows that decode together (None: from the device's memory and the model's shape).
    strict: every call has one shape, so that a row's bytes depend on weights, dtype, device model,
    versions and slots alone. stats: of the last run. cache: vision features, for the next method.
    """

    slots: int | None = None
    strict: bool = False
    stats: Stats = field(default_factory=Stats)
    cache: FeatureCache = field(default_factory=FeatureCache)
    _slots: Slots | None = None
    _copies: Copies | None = None
    _directions: dict[Hashable, Directions] = field(default_factory=dict)
    _chosen: dict[str, tuple[int, str]] = field(default_factory=dict)
    _tested: set[Hashable] = field(default_factory=set)
    _warmed: set[Hashable] = field(default_factory=set)

    def edited(self, lmm: Lmm, edit: Edit) -> AbstractContextManager[Directions | None]:
        """The model under an edit, for the length of a `with` block."""
        return installed(lmm, edit)

    def features(self, lmm: Lmm, pictures: Sequence[PreparedPicture]) -> list[Tensor]:
        """Pictures as the decoder reads them, unedited, as far as possible from the cache."""
        with torch.no_grad():
            return encoded(lmm, pictures, self.cache, 1 if self.strict else PICTURES)[0]

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

        Where memory does not suffice for the slots at the start, half as many are tried.
        Raises: LmmsteerError for an edit that does not fit the model; RunFailed out of memory.
        """
        if not requests:
            return
        if lmm.device.kind == "hpu" and sampling.temperature > 0:
            check_noise(lmm.device.torch_device())
        slots, why = self._slot_count(lmm, sampling)
        tried: list[int] = []
        for count in fallbacks(slots):
            self.stats = Stats(slots=count, why=why, fallback=tuple(tried))
            emitted = 0
            try:
                for response in self._run(lmm, requests, pictures, edit, sampling, lengths, count):
                    yield response
                    emitted += 1
                return
            except torch.OutOfMemoryError as error:
                self.forget()
                if emitted or count == fallbacks(slots)[-1]:
                    raise RunFailed(
                        f"The device's memory does not suffice for {count} slots: {error}",
                        f"Set engine.slots={max(1, count // 2)} or less",
                    ) from error
                tried.append(count)
                self._chosen[self._key(lmm, sampling)] = (fallbacks(count)[1], why)

    def forget(self) -> None:
        """Give back the memory of slots and lanes, and the vision features."""
        self._slots = self._copies = None
        self._directions.clear()
        self._warmed.clear()
        self.cache.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _run(
        self,
        lmm: Lmm,
        requests: Sequence[Request],
        pictures: Mapping[str, Image.Image],
        edit: Edit,
        sampling: Sampling,
        lengths: Sequence[int] | None,
        count: int,
    ) -> Iterator[Response]:
        slots = self._ready(lmm, requests, count, 1 + len(edit.streams))
        directions = self._load(lmm, edit)
        compiled = lmm.device.compiled_graphs()
        self.stats.slots, self.stats.lanes = slots.shape.slots, slots.shape.lanes
        slots.begin(edit, sampling, None if directions is None else directions.structure)
        slots.recorded = self.stats.recorded
        if lmm.device.records and slots.structure not in self._warmed:
            self._warm(slots, requests, pictures, directions, lengths)
        run = Run(slots, requests, pictures, self.cache, self.stats, lengths)
        emitted = 0
        try:
            while emitted < len(requests):
                if emitted not in run.finished:
                    wanted = emitted
                    self._advance(run, edit, directions, lambda: wanted in run.finished)  # noqa: B023
                while emitted in run.finished:
                    yield run.finished.pop(emitted)
                    emitted += 1
        finally:
            run.close()
            self.stats.compiled = lmm.device.compiled_graphs() - compiled

    @torch.inference_mode()
    def _warm(
        self,
        slots: Slots,
        requests: Sequence[Request],
        pictures: Mapping[str, Image.Image],
        directions: Directions | None,
        lengths: Sequence[int] | None,
    ) -> None:
        """Compile what these rows need before the first of them is answered: a row of each shape is
        prepared and begun, and what it says is dropped. Once for each structure of an edit.
        """
        lmm, edit, stats = slots.lmm, slots.edit, self.stats
        started, compiled = time.perf_counter(), lmm.device.compiled_graphs()
        chosen = one_of_each_shape(lmm, requests, pictures, edit, slots.input_shape)
        together = max(1, min(slots.shape.slots, slots.shape.lanes) // (1 + len(edit.streams)))
        for start in range(0, len(chosen), together):
            only = chosen[start : start + together]
            run = Run(slots, requests, pictures, self.cache, stats, lengths, only)
            steps = stats.steps
            try:
                self._advance(run, edit, directions, lambda: stats.steps > steps)  # noqa: B023
            finally:
                run.close()
            slots.begin(edit, slots.sampling, slots.hooks)
        self._warmed.add(slots.structure)
        graphs, made = stats.graphs, lmm.device.compiled_graphs() - compiled
        fresh = Stats(slots=stats.slots, lanes=stats.lanes, why=stats.why, fallback=stats.fallback)
        for name, value in vars(fresh).items():  # The same object, on which others look.
            setattr(stats, name, value)
        stats.graphs, stats.warmed = graphs, max(graphs, made)
        stats.warm = time.perf_counter() - started

    @torch.inference_mode()
    def _advance(
        self, run: Run, edit: Edit, directions: Directions | None, enough: Callable[[], bool]
    ) -> None:
        """Advance until it is enough, or done; between calls nothing of ours is in the model."""
        decoding, lmm = run.slots.decoding, run.lmm
        with ExitStack() as put:
            put.enter_context(decoding.redirected(lmm, attention.NAME))
            if lmm.device.kind == "cpu":
                put.enter_context(blocked(decoding.decoder(lmm), self._copies))
                put.enter_context(blocked(decoding.head(lmm), self._copies))
            placed = put.enter_context(installed(lmm, edit, known=directions))
            while not (run.done or enough()):
                run.advance(placed)

    def _slot_count(self, lmm: Lmm, sampling: Sampling) -> tuple[int, str]:
        """The slots asked for, or the default, or what memory turned out to suffice for."""
        key = self._key(lmm, sampling)
        if key not in self._chosen:
            asked = self.slots
            why = f"{asked} slots, as asked for"
            self._chosen[key] = (asked, why) if asked else default_slots(lmm, sampling)
        return self._chosen[key]

    def _key(self, lmm: Lmm, sampling: Sampling) -> str:
        return f"{lmm.digest} {lmm.dtype} {sampling.max_new_tokens}"

    def _ready(self, lmm: Lmm, requests: Sequence[Request], count: int, streams: int) -> Slots:
        shape = shape_of(lmm, count, self.strict, requests, streams)
        if self._slots is None or self._slots.lmm is not lmm:
            # In strict mode bits may not hang on how much memory there is.
            self._copies = None  # The old ones' memory goes before the new ones' comes.
            if copied(lmm) and not self.strict:
                decoding = DECODING[lmm.family.name]
                self._copies = Copies(decoding.decoder(lmm), decoding.head(lmm))
        if self._slots is None or self._slots.lmm is not lmm or self._slots.shape != shape:
            self._slots = None  # The old ones' memory goes before the new ones' comes.
            self._directions.clear()
            self._warmed.clear()
            self._slots = Slots(lmm, DECODING[lmm.family.name], shape)
        if self.strict and (lmm.digest, shape) not in self._tested:
            check_strict(lmm, shape)
            self._tested.add((lmm.digest, shape))
        return self._slots

    def _load(self, lmm: Lmm, edit: Edit) -> Directions | None:
        """The edit's directions, in the memory that steps captured for such an edit read."""
        if edit.residual is None:
            return None
        made = Directions(edit.residual, lmm)
        known = self._directions.setdefault(made.structure, made)
        if known is not made:
            known.load(edit.residual)
        return known
