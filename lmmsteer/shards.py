"""One part of a manifest: made from its samples, or taken as it lies there.

Its images part is written before its rows part, so a rows part says that both are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from lmmsteer import parts
from lmmsteer.ahead import Room
from lmmsteer.datasets.base import Sample
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.parts import Footer
from lmmsteer.prompts import Question, asks_labels, questions
from lmmsteer.schema import IMAGES, LABELS, ROWS, Picture, row_ids, to_table
from lmmsteer.store import Store

BYTES_UNDER_WAY = 1 << 28  # Of shards that are being made; each is held some five times over.


@dataclass(frozen=True, slots=True)
class Shard:
    """One part of a manifest: how many rows and pictures, and the digests of both files."""

    name: str
    rows: int
    images: int
    rows_digest: str
    images_digest: str


@dataclass(frozen=True)
class Maker:
    """Makes the parts of one manifest. Any number of threads may ask it for theirs.

    folder: of the manifest; mark: its fingerprint; there: the paths in it when the work began.
    """

    store: Store
    folder: str
    asked: Mapping[str, Any]
    mark: str
    there: Set[str]
    recorded: Sequence[Shard] = ()
    room: Room = field(default_factory=lambda: Room(BYTES_UNDER_WAY))

    def shard(self, number: int, samples: Sequence[Sample]) -> Shard:
        """The shard of these samples. A part of it that is there is not made again.

        Raises: LmmsteerError where what is there has another fingerprint, or a text is no Unicode;
        RunFailed where what is there shows other pictures.
        """
        part = parts.part_name(number)
        rows, images = f"{self.folder}/rows/{part}", f"{self.folder}/images/{part}"
        if {rows, images} <= self.there:
            footers = self._footer(rows), self._footer(images)
            ids = parts.read_column(self.store, images, "image_id")
            if ids != [sample.image_id for sample in samples]:
                raise changed(self.store, self.folder, part)
        else:
            with self.room.claim() as needed:
                table, shown = self._tables(samples, [sample.read() for sample in samples])
                needed(table.nbytes + shown.nbytes)
                made = parts.to_bytes(table, self.mark), parts.to_bytes(shown, self.mark)
                self._refuse_other(number, part, made)
                footer = self._put(images, made[1])
                footers = self._put(rows, made[0]), footer
        digests = [footer.meta["lmmsteer.digest"] for footer in footers]
        return Shard(part, footers[0].rows, footers[1].rows, *digests)

    def _tables(
        self, samples: Sequence[Sample], pictures: Sequence[Picture]
    ) -> tuple[pa.Table, pa.Table]:
        try:
            return rows_table(samples, pictures, self.asked), to_table(pictures, IMAGES)
        except UnicodeEncodeError as error:
            raise LmmsteerError(
                f"A text of the data set or a prompt is no Unicode: {error.object[:80]!r}.",
                "Rename the file, or save the metadata file anew as UTF-8.",
            ) from error

    def _refuse_other(self, number: int, part: str, made: tuple[bytes, bytes]) -> None:
        """Before anything is written: a part made again must be the recorded one."""
        if self.recorded:
            shard = self.recorded[number]
            digests = tuple(parts.footer_of(data).meta["lmmsteer.digest"] for data in made)
            if digests != (shard.rows_digest, shard.images_digest):
                raise changed(self.store, self.folder, part)

    def _put(self, path: str, data: bytes) -> Footer:
        """The footer of the part at its place; one that is there must hold the same rows."""
        made = parts.footer_of(data)
        if self.store.create(path, data):
            return made
        found = self._footer(path)
        if found.meta["lmmsteer.digest"] != made.meta["lmmsteer.digest"]:
            raise changed(self.store, self.folder, path.rpartition("/")[2])
        return found

    def _footer(self, path: str) -> Footer:
        footer = parts.read_footer(self.store, path)
        if footer.fingerprint != self.mark:
            raise LmmsteerError(
                f"{self.store.root}/{path} was made with another data set, prompts, seeds or"
                " limit.",
                "Choose another folder: out=FOLDER",
            )
        return footer


def changed(store: Store, folder: str, part: str) -> RunFailed:
    """What to say where a data set no longer shows what a part holds."""
    return RunFailed(
        f"{store.root}/{folder}: the pictures of {part} are not the old ones.",
        "Bring the old pictures back, or make a new manifest: out=FOLDER",
    )


def rows_table(
    samples: Sequence[Sample], pictures: Sequence[Picture], asked: Mapping[str, Any]
) -> pa.Table:
    """The rows of a shard: its pictures x prompts x seeds, the last fastest.

    A prompt with a label's place in it is asked of the pictures that have the label. Columns are
    made of their distinct values and spread over the rows.
    """
    prompts, seeds = asked["prompts"], asked["seeds"]
    if asks_labels(prompts):
        each = [questions(prompts, seeds, sample.labels) for sample in samples]
    else:
        each = [questions(prompts, seeds, {})] * len(samples)
    distinct = {question: at for at, question in enumerate(dict.fromkeys(chain(*each)))}
    of_picture: dict[str, list[Any]] = {
        "image_id": [sample.image_id for sample in samples],
        "group_id": [sample.group_id for sample in samples],
        "extra": [sorted(sample.extra.items()) for sample in samples],
        **{label: [sample.labels.get(label) for sample in samples] for label in LABELS},
    }
    names = ("prompt_id", "prompt", "seed")
    of_question = {name: [q[at] for q in distinct] for at, name in enumerate(names)}
    columns = {"row_id": pa.array(_ids(samples, pictures, each), pa.string())}
    whose = np.repeat(np.arange(len(samples)), [len(asked) for asked in each])
    which = np.fromiter((distinct[question] for question in chain(*each)), np.int64, len(whose))
    for values, places in ((of_picture, whose), (of_question, which)):
        for name, column in values.items():
            columns[name] = pa.array(column, ROWS.field(name).type).take(pa.array(places))
    return pa.Table.from_arrays([columns[name] for name in ROWS.names], schema=ROWS)


def _ids(
    samples: Sequence[Sample], pictures: Sequence[Picture], each: Sequence[Sequence[Question]]
) -> list[str]:
    """The row ids, what pictures in a row are asked alike together."""
    ids: list[str] = []
    known = [(sample.image_id, p.sha256) for sample, p in zip(samples, pictures, strict=True)]
    for asked, group in groupby(zip(known, each, strict=True), key=itemgetter(1)):
        ids += row_ids([one for one, _ in group], [question[1:] for question in asked])
    return ids
