"""How each cell of an output folder stands: what its listing and its parts' footers say.

What is damaged is named in its own cell and hides no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lmmsteer import manifest
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import cells
from lmmsteer.fleet.footers import Footers
from lmmsteer.manifest import Manifest
from lmmsteer.parts import DamagedPart
from lmmsteer.store import Store

NAMES = ("model", "method", "attribute", "dataset")
SHARE = 0.01  # What may fail where a cell's record does not say.

State = Literal["complete", "incomplete", "failed", "damaged"]


@dataclass
class Standing:
    """A cell's shards and rows: planned, done, failed by kind; faults: what is wrong on disk.

    manifest: whether there is one, be it damaged.
    """

    folder: str
    names: Mapping[str, str]
    rows: int = 0
    rows_done: int = 0
    shards: int = 0
    shards_done: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    faults: list[LmmsteerError] = field(default_factory=list)
    share: float = SHARE
    manifest: bool = True

    def __str__(self) -> str:
        return " ".join(self.names.get(key, "?") for key in NAMES)

    @property
    def rows_left(self) -> int:
        return max(0, self.rows - self.rows_done)

    @property
    def shards_left(self) -> int:
        return self.shards - self.shards_done

    @property
    def state(self) -> State:
        """complete: every planned row is there and no more of them failed than may."""
        if self.faults:
            return "damaged"
        if self.failed.total() / max(self.rows_done, 1) > self.share:
            return "failed"
        return "complete" if self.rows and self.rows_done == self.rows else "incomplete"


class Ledger:
    """The cells of an output folder. Asked again, it reads what has changed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.footers = Footers(store)
        self._manifests: dict[str, tuple[object, Manifest]] = {}

    def standings(self, share: float | None = None) -> list[Standing]:
        """Every cell, in the order of their folders. share: of rows that may fail, if not each
        cell's own."""
        names: dict[str, set[str]] = {}
        for path in self.store.list("responses"):
            folder, _, name = path.rpartition("/")
            if name == "_cell.json" or cells.is_part(name):
                names.setdefault(folder, set()).add(name)
        asked: dict[str, Manifest | LmmsteerError | None] = {}
        return [self._standing(folder, names[folder], asked, share) for folder in sorted(names)]

    def _standing(
        self,
        folder: str,
        there: set[str],
        asked: dict[str, Manifest | LmmsteerError | None],
        share: float | None,
    ) -> Standing:
        found = Standing(folder, _names(folder))
        try:
            record = cells.load(self.store, folder)
            if record is None:
                raise _unrecorded(self.store, folder)
            if record.cell.folder != folder:
                raise _of_another(self.store, folder, str(record.cell))
            found.share = record.config.get("max_failed_share", SHARE)
        except (LmmsteerError, OSError) as error:
            found.faults.append(_told(error))
        found.share = found.share if share is None else share
        self._count(found, there, asked)
        return found

    def _count(
        self,
        found: Standing,
        there: set[str],
        asked: dict[str, Manifest | LmmsteerError | None],
    ) -> None:
        dataset = found.names.get("dataset", "")
        if dataset not in asked:
            asked[dataset] = self._manifest(dataset)
        made = asked[dataset]
        if isinstance(made, LmmsteerError):
            found.faults.append(made)
        planned = {s.name: s.rows for s in made.shards} if isinstance(made, Manifest) else {}
        found.manifest = made is not None
        done = sorted(there & planned.keys())
        counts = self.footers.read(f"{found.folder}/{name}" for name in done)
        found.shards, found.rows = len(planned), sum(planned.values())
        found.shards_done = len(counts)
        for path, count in counts.items():
            if isinstance(count, DamagedPart):
                found.faults.append(count)
                continue
            found.rows_done += count.rows
            found.failed.update(dict(count.failed))
            expected = planned[path.rpartition("/")[2]]
            if count.rows != expected:
                found.faults.append(_of_other_size(self.store, path, count.rows, expected))

    def _manifest(self, dataset: str) -> Manifest | LmmsteerError | None:
        """A data set's manifest, read anew only where its file has changed."""
        local = self.store.local(f"{manifest.folder(dataset)}/_manifest.json")
        stamp = _stamp(local)
        known = self._manifests.get(dataset)
        if known is not None and stamp is not None and known[0] == stamp:
            return known[1]
        try:
            made = manifest.load(self.store, dataset)
        except (LmmsteerError, OSError) as error:
            return _told(error)
        if made is not None:
            self._manifests[dataset] = stamp, made
        return made


def _stamp(local: Any) -> object:
    try:
        found = local.stat()
    except (OSError, AttributeError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def _names(folder: str) -> dict[str, str]:
    """The names in a cell's path: responses/model=M/method=X/attribute=A/dataset=D."""
    pairs = (word.partition("=") for word in folder.split("/"))
    return {key: value for key, _, value in pairs if key in NAMES}


def _told(error: LmmsteerError | OSError) -> LmmsteerError:
    if isinstance(error, LmmsteerError):
        return error
    where, why = error.filename or "A file", error.strerror or error
    return LmmsteerError(f"{where} cannot be read: {why}.", "Check its rights.")


def _of_another(store: Store, folder: str, cell: str) -> LmmsteerError:
    return LmmsteerError(
        f"{store.root}/{folder}/_cell.json is that of another cell ({cell}).",
        "Bring the right one back, or give the command that made the cell again.",
    )


def _unrecorded(store: Store, folder: str) -> LmmsteerError:
    return LmmsteerError(
        f"{store.root}/{folder} has parts and no _cell.json.",
        "Bring it back, or give the command that made the cell again.",
    )


def _of_other_size(store: Store, path: str, rows: int, expected: int) -> LmmsteerError:
    return LmmsteerError(
        f"{store.root}/{path} has {rows} rows, and its shard {expected}.",
        f"Move it to {store.root}/trash and run the same command again: it is made anew.",
    )
