"""How much a plan will write: pictures of a data set counted, bytes estimated, room on the disk."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmmsteer import parts
from lmmsteer.datasets.base import DataSet, Sample, picture_of_bytes
from lmmsteer.errors import LmmsteerError
from lmmsteer.manifest import Manifest, samples_of
from lmmsteer.prompts import asks_labels, questions
from lmmsteer.schema import IMAGES, to_table
from lmmsteer.shards import rows_table
from lmmsteer.store import Store

PICTURES = 64  # Read to estimate the bytes of all.
PARTS = 16  # Looked at to estimate the bytes of all.
PARTS_AFAR = 2  # The same, of an object store, where a part's size is had by reading it.


@dataclass(frozen=True)
class Extent:
    """A manifest, made or to be made. bytes: what is to be written of it still, estimated."""

    made: bool
    pictures: int
    rows: int
    shards: int
    bytes: int

    @property
    def files(self) -> int:
        """What is to be written: a rows and an images part for each shard, and the record."""
        return 0 if self.made else 2 * self.shards + 1


def extent_of(made: Manifest | None, dataset: DataSet, identity: Mapping[str, Any]) -> Extent:
    """A manifest's extent; where there is none yet, the data set's pictures are counted.

    Pictures are counted without being read. The bytes are those of parts made in memory of PICTURES
    of them, chosen by chance, for each picture, times all there are.
    """
    if made is not None:
        return Extent(True, made.images, made.rows, len(made.shards), 0)
    each = identity["shard_images"]
    chosen, pictures, rows = _chosen(dataset, identity, PICTURES)
    shards = [chosen[n : n + each] for n in range(0, len(chosen), each)]
    known = getattr(dataset, "picture_bytes", None)
    bytes_ = sum(_part_bytes(shard, identity, known) for shard in shards)
    bytes_ = round(bytes_ * pictures / max(1, len(chosen)))
    return Extent(False, pictures, rows, -(-pictures // each), bytes_)


def _chosen(
    dataset: DataSet, identity: Mapping[str, Any], count: int
) -> tuple[list[Sample], int, int]:
    """`count` samples, each as likely as any other and always the same; how many samples there are,
    and how many rows."""
    prompts, seeds = identity["prompts"], identity["seeds"]
    alike = None if asks_labels(prompts) else len(prompts) * len(seeds)
    chance, chosen, seen, rows = random.Random(0), [], 0, 0
    for seen, sample in enumerate(samples_of(dataset, identity), start=1):
        rows += len(questions(prompts, seeds, sample.labels)) if alike is None else alike
        place = seen - 1 if seen <= count else chance.randrange(seen)
        if place < count:
            chosen[place : place + 1] = [sample]
    return chosen, seen, rows


def _part_bytes(samples: Sequence[Sample], identity: Mapping[str, Any], known: int | None) -> int:
    """known: bytes of a picture, where none is to be read to find out."""
    if known is None:
        pictures = [sample.read() for sample in samples]
    else:
        pictures = [picture_of_bytes(s.image_id, random.randbytes(known)) for s in samples]
    try:
        tables = to_table(pictures, IMAGES), rows_table(samples, pictures, identity)
    except UnicodeEncodeError as error:
        raise LmmsteerError(
            f"A text of the data set is no Unicode: {error.object!r}.",
            "Rename the file, or save the metadata file anew as UTF-8.",
        ) from error
    return sum(len(parts.to_bytes(table, "0" * 64)) for table in tables)


def row_bytes(store: Store, folder: str, names: Sequence[str]) -> float | None:
    """Bytes for a row in a cell's parts, from a few of them; None where there is none."""
    many = PARTS if store.local(folder) is not None else PARTS_AFAR
    some = names[:: max(1, len(names) // many)][:many]
    if not some:
        return None
    paths = [f"{folder}/{name}" for name in some]
    rows = sum(parts.read_footer(store, path).rows for path in paths)
    return sum(_size(store, path) for path in paths) / rows if rows else None


def _size(store: Store, path: str) -> int:
    local = store.local(path)
    return local.stat().st_size if local is not None else len(store.read_bytes(path))


def free_bytes(store: Store) -> int | None:
    """Room on the disk of the output folder; None for an object store, which has no end."""
    folder = store.local("")
    while folder is not None and not folder.exists():
        folder = folder.parent if folder != folder.parent else None
    return shutil.disk_usage(folder).free if folder is not None else None
