"""The shared engine: a picture once, a prefix once, fixed slots, no row that waits for another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from PIL import Image

from lmmsteer.engine import attention
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.hooks import Directions, installed
from lmmsteer.engine.pictures import FeatureCache
from lmmsteer.engine.run import Run, Shape
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.stats import Stats
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request, Response


@dataclass(eq=False)
class Shared:
    """Rows of a picture share its vision features and its prefix; slots are refilled as rows end.

    slots: rows that decode together. strict: every call has one shape, so that a row's bytes
    depend on weights, dtype, device, versions and slots alone.
    """

    slots: int = 64
    strict: bool = False
    stats: Stats = field(default_factory=Stats)
    cache: FeatureCache = field(default_factory=FeatureCache)

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
        self.stats = Stats()
        run = Run(
            lmm, requests, pictures, edit, sampling, self._shape(requests), self.cache,
            self.stats, lengths,
        )  # fmt: skip
        emitted = 0
        try:
            while emitted < len(requests):
                self._until(run, lmm, edit, emitted)
                while emitted in run.finished:
                    yield run.finished.pop(emitted)
                    emitted += 1
        finally:
            run.close()

    @torch.inference_mode()
    def _until(self, run: Run, lmm: Lmm, edit: Edit, row: int) -> None:
        """Advance until a row is answered; between calls nothing of ours is in the model."""
        if row in run.finished:
            return
        decoding = DECODING[lmm.family.name]
        with decoding.redirected(lmm, attention.NAME), installed(lmm, edit) as directions:
            while row not in run.finished and not run.done:
                run.advance(directions)

    def _shape(self, requests: Sequence[Request]) -> Shape:
        pictures = max(1, len({request.image_id for request in requests}))
        width = -(-len(requests) // pictures)
        lanes = 2 * -(-self.slots // width) + 2
        if not self.strict:
            return Shape(self.slots, min(lanes, len(requests)) or 1)
        return Shape(
            self.slots, self.slots // 4 + 2, 16, fixed=True, chunk=attention.CHUNK, one_by_one=True
        )
