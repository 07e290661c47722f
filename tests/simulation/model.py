"""What stands in for models, pictures and cards: answers that are a pure function of the row.

An answer also hangs on the row's place in its shard and on how many rows were shown, as a real
batch's last bits do: a row that is left out without a filler changes its neighbours' texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmmsteer.engine.sampling import Sampling
from lmmsteer.errors import PictureError
from lmmsteer.schema import Picture, Request, Response
from tests.simulation.process import Process


def says(model: str, tokens: int, row_id: str, seed: int, place: int, rows: int) -> str:
    """The text of a row: model and max_new_tokens tell the cells apart."""
    key = f"{model} {tokens} {row_id} {seed} {place} {rows}"
    return "It is " + hashlib.blake2b(key.encode(), digest_size=6).hexdigest() + "."


@dataclass(frozen=True)
class Weights:
    """A loaded model."""

    name: str


class Shown(Mapping[str, str]):
    """A shard's pictures, decoded: their ids."""

    def __init__(self, pictures: Mapping[str, Picture]) -> None:
        self._pictures = pictures

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __getitem__(self, image_id: str) -> str:
        return image_id

    def __iter__(self) -> Iterator[str]:
        return iter(self._pictures)

    def __len__(self) -> int:
        return len(self._pictures)

    def error(self, image_id: str) -> PictureError | None:
        picture = self._pictures[image_id]
        if picture.bytes is not None:
            return None
        return PictureError(picture.error_kind or "picture_missing", picture.error or "")


class Stats:
    """How far an engine is; `tokens` grows with the simulated time while it works."""

    slots, why, steps, encoded, prefixes, suffixes, rows, graphs, compiled, warmed = (
        1,
        "",
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    )
    vision = prefix = suffix = decode = wait = warm = 0.0
    fallback: tuple[str, ...] = ()

    def __init__(self, process: Process) -> None:
        self.process = process
        self.frozen: int | None = 0

    @property
    def tokens(self) -> int:
        return int(self.process.world.now) if self.frozen is None else self.frozen


class Engine:
    """Answers rows at the process's pace; some rows do something to it instead."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.stats = Stats(process)

    def generate(
        self,
        lmm: Weights,
        requests: Sequence[Request],
        pictures: Shown,
        edit: object,
        sampling: Sampling,
    ) -> Iterator[Response]:
        self.process.compute(requests, pictures)
        count = len(requests)
        for place, row in enumerate(requests):
            tokens = sampling.max_new_tokens
            text = says(lmm.name, tokens, row.row_id, row.seed, place, count)
            ids = (row.row_id, row.image_id, row.prompt_id, row.seed)
            yield Response(*ids, text, [place, tokens], 2, "eos")
