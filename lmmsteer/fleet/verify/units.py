"""The check of a shard: its two manifest parts, and the response part of every cell.

The rows of the manifest are read once and every cell's are held against them, so that no more than
one shard is ever in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from lmmsteer import manifest
from lmmsteer.fleet.verify import contents
from lmmsteer.fleet.verify.answers import check_answers
from lmmsteer.fleet.verify.contents import Part
from lmmsteer.fleet.verify.faults import Fault, Wrong, read
from lmmsteer.schema import IMAGES, RESPONSES, ROWS
from lmmsteer.shards import Shard
from lmmsteer.store import Store

HASH_BYTES = 16


@dataclass(frozen=True)
class Source:
    """A data set's manifest, as far as it is known. mark: its fingerprint."""

    dataset: str
    identity: Mapping[str, Any] | None = None
    mark: str | None = None


@dataclass(frozen=True)
class Folder:
    """A cell's folder. fingerprint: None where the record is damaged or not there.

    planned: whether it was made from the manifest that is there. foreign: lmmsteer made none of it.
    """

    path: str
    dataset: str
    fingerprint: str | None = None
    planned: bool = True
    foreign: bool = False


@dataclass(frozen=True)
class Unit:
    """A shard's files that are there, to be checked together."""

    part: str
    source: Source
    shard: Shard | None
    rows: bool
    images: bool
    folders: tuple[Folder, ...]

    @property
    def files(self) -> int:
        return self.rows + self.images + len(self.folders)


@dataclass
class Outcome:
    """What a unit's check found. images: HASH_BYTES of a hash for each image id.

    unsealed: parts without a seal. foreign: parts that lmmsteer did not write.
    """

    unit: Unit
    faults: list[Fault] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    unsealed: int = 0
    images: bytes = b""


def check(store: Store, unit: Unit) -> Outcome:
    """Every file of the unit, read whole."""
    found = Outcome(unit)
    base = manifest.folder(unit.source.dataset)
    images = rows = None
    if unit.images:
        path = f"{base}/images/{unit.part}"
        images = _table(store, path, IMAGES, partial(_check_images, unit), found)
    if unit.rows:
        path = f"{base}/rows/{unit.part}"
        rows = _table(store, path, ROWS, partial(_check_rows, unit, images), found)
    for folder in unit.folders:
        path = f"{folder.path}/{unit.part}"
        rules = partial(_check_answers, folder, rows)
        _table(store, path, RESPONSES, rules, found, folder.foreign)
    found.images = b"" if images is None else _hashes(images)
    return found


def _check_images(unit: Unit, part: Part) -> None:
    contents.check_fingerprint(part, unit.source.mark)
    if unit.shard is not None:
        contents.check_recorded(part, unit.shard.images, unit.shard.images_digest)
    contents.check_images(part)


def _check_rows(unit: Unit, images: pa.Table | None, part: Part) -> None:
    contents.check_fingerprint(part, unit.source.mark)
    if unit.shard is not None:
        contents.check_recorded(part, unit.shard.rows, unit.shard.rows_digest)
    contents.check_rows(part, images, unit.source.identity)


def _check_answers(folder: Folder, rows: pa.Table | None, part: Part) -> None:
    contents.check_fingerprint(part, folder.fingerprint)
    check_answers(part, rows if folder.planned else None)


def _table(
    store: Store,
    path: str,
    schema: pa.Schema,
    rules: Callable[[Part], None],
    found: Outcome,
    foreign: bool = False,
) -> pa.Table | None:
    """A part's rows where all is well with it; else None, and the fault is noted.

    foreign: whether parts of others lie here; nobody here could make one again, so none is moved.
    """
    data = None
    try:
        data = read(store, path)
        part = contents.open_part(data, schema)
        rules(part)
    except Wrong as wrong:
        if not foreign:
            found.faults.append(wrong.at(path, data))
        elif isinstance(wrong, contents.Foreign):
            found.foreign.append(path)
        else:
            found.faults.append(Fault(path, wrong.why, "unreadable"))
        return None
    found.unsealed += not part.sealed
    return part.table


def _hashes(images: pa.Table) -> bytes:
    names = images.column("image_id").to_pylist()
    return b"".join(hashlib.blake2b(n.encode(), digest_size=HASH_BYTES).digest() for n in names)
