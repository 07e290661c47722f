"""The records that say what belongs where: `_manifest.json`, `_cell.json`.

A record that no part beside it agrees with is itself at fault: believing it would condemn them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from itertools import islice

from lmmsteer import fingerprint, parts, seal
from lmmsteer.fleet.cells import CellRecord
from lmmsteer.fleet.verify.faults import Wrong
from lmmsteer.manifest import Manifest
from lmmsteer.shards import Shard
from lmmsteer.store import Store

UNLIKE = (ValueError, KeyError, TypeError, AttributeError)  # What other JSON raises.
WITNESSES = 8  # Parts whose footers are asked whether a record is theirs.


def open_manifest(dataset: str, data: bytes) -> Manifest:
    """What `_manifest.json` says. Raises Wrong where it is not what was written."""
    try:
        record = seal.read_record(data)
        shards = tuple(Shard(**shard) for shard in record["shards"])
        identity = record["identity"]
        if not (isinstance(identity["prompts"], dict) and isinstance(identity["seeds"], list)):
            raise TypeError("its prompts and seeds are none")
        made = Manifest(dataset, identity, shards)
        totals = record["rows"], record["images"]
        names = [shard.name for shard in shards]
        if totals != (made.rows, made.images) or names != _names(len(shards)):
            raise Wrong("inconsistent", "does not add up: its totals are not those of its shards")
    except UNLIKE as error:
        raise _damaged(error) from error
    return made


def check_manifest(store: Store, made: Manifest, beside: Iterable[str]) -> None:
    """The record is that of the parts beside it."""
    mark = fingerprint.digest(made.identity)
    if not _witnessed(store, mark, beside):
        raise Wrong("misplaced", "is the record of another manifest than the parts beside it")


def open_cell(data: bytes) -> CellRecord:
    """What `_cell.json` says. Raises Wrong where it is not what was written."""
    try:
        return CellRecord.from_bytes(data)
    except UNLIKE as error:
        raise _damaged(error) from error


def check_cell(
    store: Store,
    folder: str,
    record: CellRecord,
    beside: Iterable[str],
    elsewhere: Set[str] = frozenset(),
) -> None:
    """The record is that of this folder and of the parts in it.

    elsewhere: digests of other cells' records; their parts have strayed in here, and do not count.
    """
    if record.cell.folder != folder:
        raise Wrong("misplaced", f"is the record of another cell ({record.cell})")
    if not _witnessed(store, record.digest, beside, elsewhere):
        raise Wrong("misplaced", "is the record of another config than the parts beside it")


def _damaged(error: Exception) -> Wrong:
    lacking = "it has no " if isinstance(error, KeyError) else ""
    return Wrong("damaged", f"is damaged: {lacking}{error}")


def sealed(data: bytes) -> bool:
    return seal.holds(data) is True


def foreign(store: Store, paths: Iterable[str]) -> bool:
    """Whether the first parts that can be read were all written by others."""
    found = _fingerprints(store, paths)
    return bool(found) and not any(found)


def _witnessed(
    store: Store, digest: str, paths: Iterable[str], elsewhere: Set[str] = frozenset()
) -> bool:
    """Whether a part agrees; a single part, or none, has no say against a record."""
    marks = _fingerprints(store, paths)
    found = [mark for mark in marks if mark is not None and mark not in elsewhere]
    return len(found) < 2 or digest in found


def _fingerprints(store: Store, paths: Iterable[str]) -> list[str | None]:
    """Of the first parts, where their footers can be read; None where lmmsteer wrote none."""
    found = []
    for path in islice(paths, WITNESSES):
        try:
            found.append(parts.read_footer(store, path).fingerprint)
        except parts.DamagedPart:
            continue
    return found


def _names(count: int) -> list[str]:
    return [parts.part_name(number) for number in range(count)]
