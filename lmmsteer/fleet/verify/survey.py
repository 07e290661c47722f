"""What an output folder should hold and what is missing: names, counts and records.

No part is read beyond its footer. State is kept for each file, never for each row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from typing import TypeVar

from lmmsteer import fingerprint, manifest
from lmmsteer.fleet import cells
from lmmsteer.fleet.cells import CellRecord
from lmmsteer.fleet.verify import records
from lmmsteer.fleet.verify.faults import Fault, Wrong, read
from lmmsteer.fleet.verify.listing import Listing, Names
from lmmsteer.fleet.verify.units import Folder, Source, Unit
from lmmsteer.manifest import Manifest
from lmmsteer.shards import Shard
from lmmsteer.store import Store

T = TypeVar("T")
FEW = 8  # Of more parts, all of which are missing, one line speaks.


class Survey:
    """The records of an output folder, what is missing by them, and the units to be checked.

    records: of the cells, by folder, where they can be believed. unsealed: records without a seal.
    """

    def __init__(self, store: Store, listing: Listing) -> None:
        self.store, self.listing = store, listing
        self.faults: list[Fault] = list(listing.faults)
        self.unsealed = 0
        self.records: dict[str, CellRecord] = {}
        self.manifests: dict[str, Manifest] = {}
        ours = {f: n for f, n in listing.cells.items() if not self._foreign(f, n)}
        marks = self._marks(ours)
        for folder, names in ours.items():
            self._read_cell(folder, names, {m for f, m in marks.items() if f != folder})
        for dataset in sorted({*listing.manifests, *(n.dataset for n in ours.values())}):
            self._read_manifest(dataset, listing.manifests.get(dataset, Names(dataset)))
        self._folders = {
            folder: self._folder(folder, names) if folder in ours else _other(folder, names)
            for folder, names in listing.cells.items()
        }
        self.units = [*self._units()]

    def _foreign(self, folder: str, names: Names) -> bool:
        paths = (f"{folder}/{part}" for part in sorted(names.parts))
        return not names.record and records.foreign(self.store, paths)

    def _marks(self, folders: Mapping[str, Names]) -> dict[str, str]:
        """The digest of each cell whose record is whole and says that it is this cell's."""
        found: dict[str, str] = {}
        for folder, names in folders.items():
            with suppress(Wrong):  # What is wrong with it is said where its cell is read.
                record = records.open_cell(read(self.store, cells.path_of(folder)))
                if names.record and record.cell.folder == folder:
                    found[folder] = record.digest
        return found

    def _read_cell(self, folder: str, names: Names, elsewhere: Set[str]) -> None:
        def opened(data: bytes) -> CellRecord:
            record = records.open_cell(data)
            beside = (f"{folder}/{part}" for part in sorted(names.parts))
            records.check_cell(self.store, folder, record, beside, elsewhere)
            return record

        record = self._read_record(cells.path_of(folder), names.record, opened)
        if record is not None:
            self.records[folder] = record

    def _read_manifest(self, dataset: str, names: Names) -> None:
        base = manifest.folder(dataset)

        def opened(data: bytes) -> Manifest:
            made = records.open_manifest(dataset, data)
            first = sorted(names.parts | names.images)
            beside = (f"{base}/{kind}/{part}" for part in first for kind in ("rows", "images"))
            records.check_manifest(self.store, made, beside)
            return made

        made = self._read_record(manifest.path_of(dataset), names.record, opened)
        if made is not None:
            self.manifests[dataset] = made
            planned = {shard.name for shard in made.shards}
            self._compare(f"{base}/rows", names.parts, planned)
            self._compare(f"{base}/images", names.images, planned)

    def _read_record(self, path: str, there: bool, opened: Callable[[bytes], T]) -> T | None:
        """A record that can be believed; None where there is none, and the fault is noted."""
        data = None
        try:
            if not there:
                raise Wrong("missing", "is missing")
            data = read(self.store, path)
            record = opened(data)
        except Wrong as wrong:
            self.faults.append(wrong.at(path, data))
            return None
        self.unsealed += not records.sealed(data)
        return record

    def _folder(self, path: str, names: Names) -> Folder:
        record, made = self.records.get(path), self.manifests.get(names.dataset)
        mark = record.digest if record is not None else None
        if record is not None and made is not None:
            asked = record.fingerprint.get("manifest", made.identity)
            if asked != made.identity:
                why = f"was made from another manifest than that of dataset={names.dataset}"
                self.faults.append(Fault(cells.path_of(path), why, "conflict"))
                return Folder(path, names.dataset, mark, planned=False)
        if made is not None:
            self._compare(path, names.parts, {shard.name for shard in made.shards})
        return Folder(path, names.dataset, mark)

    def _compare(self, folder: str, there: Set[str], planned: Set[str]) -> None:
        """Names that are missing in a folder, and names that the manifest does not have."""
        if len(planned) > FEW and not there & planned:
            self.faults.append(Fault(folder, f"has none of its {len(planned)} parts", "missing"))
        else:
            self.faults += [
                Fault(f"{folder}/{p}", "is missing", "missing") for p in planned - there
            ]
        why = "is not in the manifest"
        self.faults += [Fault(f"{folder}/{p}", why, "unknown") for p in there - planned]

    def _units(self) -> Iterator[Unit]:
        by_dataset: dict[str, list[Folder]] = defaultdict(list)
        for folder in self._folders.values():
            by_dataset[folder.dataset].append(folder)
        for dataset in sorted({*by_dataset, *self.listing.manifests}):
            yield from self._of_dataset(dataset, by_dataset[dataset])

    def _of_dataset(self, dataset: str, folders: Sequence[Folder]) -> Iterator[Unit]:
        made = self.manifests.get(dataset)
        names = self.listing.manifests.get(dataset, Names(dataset))
        source = Source(dataset)
        shards: Mapping[str, Shard] = {}
        if made is not None:
            source = Source(dataset, made.identity, fingerprint.digest(made.identity))
            shards = {shard.name: shard for shard in made.shards}
        holders: dict[str, list[Folder]] = defaultdict(list)
        for folder in folders:
            for part in self.listing.cells[folder.path].parts:
                if part in shards or made is None or not folder.planned:
                    holders[part].append(folder)
        known = {p for p in names.parts | names.images if made is None or p in shards}
        for part in sorted(known | holders.keys()):
            rows, images = (
                part in there and part in known for there in (names.parts, names.images)
            )
            yield Unit(part, source, shards.get(part), rows, images, tuple(holders[part]))


def _other(path: str, names: Names) -> Folder:
    return Folder(path, names.dataset, planned=False, foreign=True)
