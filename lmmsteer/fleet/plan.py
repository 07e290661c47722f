"""A sweep as one plan: members resolved, gated, deduplicated, ordered by model; and its size.

`Plan.of` refuses before anything is written; `begin` writes manifests and cell records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

from lmmsteer import manifest
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import cells, resolve
from lmmsteer.fleet.cells import CellRecord
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.resolve import Job
from lmmsteer.fleet.work import Budget, Item, Lot
from lmmsteer.manifest import Manifest
from lmmsteer.store import Store, open_store

T = TypeVar("T")


@dataclass(frozen=True)
class Refusal:
    """A member that cannot run, and why; the others do."""

    label: str
    error: LmmsteerError


@dataclass
class Plan:
    """The jobs of a run, in the order of their models, and the members that were refused."""

    store: Store
    jobs: list[Job]
    refused: list[Refusal] = field(default_factory=list)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    _filled: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of_members(cls, members: Sequence[Member], tell: Callable[[Exception], Any]) -> Plan:
        """The plan of a command line. `tell` turns a composition error into an LmmsteerError."""
        store = store_of(members, tell)
        return cls._of(store, members, lambda m: resolve.resolve(m, store), lambda m: m.label, tell)

    @classmethod
    def of_records(cls, store: Store, records: Sequence[CellRecord]) -> Plan:
        """The plan of everything that was ever started in an output folder."""
        return cls._of(store, records, lambda r: resolve.restore(r, store), lambda r: str(r.cell))

    @classmethod
    def _of(
        cls,
        store: Store,
        sources: Sequence[T],
        make: Callable[[T], Job],
        label: Callable[[T], str],
        tell: Callable[[Exception], Any] | None = None,
    ) -> Plan:
        plan = cls(store, [])
        found: dict[str, Job] = {}
        for source in sources:
            try:
                error = getattr(source, "error", None)
                if error is not None and tell is not None:
                    raise tell(error)
                job = make(source)
                plan._admit(job, found)
            except LmmsteerError as error:
                plan.refused.append(Refusal(label(source), error))
        plan.jobs = sorted(found.values(), key=lambda job: (job.task.model.name, job.cell.dataset))
        return plan

    def _admit(self, job: Job, found: dict[str, Job]) -> None:
        """Gate a job against what is on disk and against the other members."""
        other = found.get(job.cell.folder)
        if other is not None and other.record.digest != job.record.digest:
            raise LmmsteerError(
                f"Two members of the sweep share the folder {job.cell.folder}.",
                "Name them apart, for example with model.name=NAME or dataset.name=NAME",
            )
        cells.gate(self.store, job.record, job.config.mixed_stack)
        known = self.manifests.get(job.cell.dataset)
        made = manifest.gate(self.store, job.cell.dataset, job.identity, known)
        if made is not None:
            self.manifests[job.cell.dataset] = made
        elif self._filled.get(job.cell.dataset) != job.identity:
            # Once for all cells: to draw a sample is to go through the whole data set.
            if next(manifest.samples_of(job.dataset, job.identity), None) is None:
                raise manifest.no_pictures(job.dataset.name, job.identity)
            self._filled[job.cell.dataset] = job.identity
        found[job.cell.folder] = job

    def begin(self) -> None:
        """Write what the shards need: manifests, handed artifacts, every `_cell.json`."""
        built: dict[str, Manifest] = {}
        for job in self.jobs:
            name = job.cell.dataset
            if name in built:  # Whatever is asked of a data set in a run is asked of one manifest.
                manifest.gate(self.store, name, job.identity, built[name])
            else:
                built[name] = manifest.build(self.store, name, job.dataset, job.identity)
        self.manifests |= built
        for job in self.jobs:
            for where, artifact in job.steering.handed:
                self.store.create(where, artifact.to_bytes())
            cells.record(self.store, job.record, cells.load(self.store, job.cell.folder))

    def left(self, job: Job) -> list[manifest.Shard]:
        """Shards that have no response part yet, in the manifest's order."""
        there = cells.done(self.store, job.cell.folder)
        shards = self.manifests[job.cell.dataset].shards
        return [shard for shard in shards if shard.name not in there]

    def rows_left(self, job: Job) -> int:
        return sum(shard.rows for shard in self.left(job))

    def lots(self, jobs: Sequence[Job], start: float = 0.0) -> list[Lot]:
        """All work that is left of some jobs: a model's together, and in it all that shows the same
        pictures.

        A worker that gets a shard's cells one after the other encodes its pictures once. start: the
        share of the shards that is left for the end, so that drivers on one folder meet late.
        """
        lots = []
        for model, group in groupby(jobs, key=lambda job: job.task.model):
            mine = list(group)
            left = {job.cell.folder: self._left(job) for job in mine}
            count = sum(map(sum, left.values()))
            lots.append(Lot(model, count, self._items(mine, left, start)))
        return lots

    def _left(self, job: Job) -> bytearray:
        """For each shard of the manifest, in its order: 1 where it has no response part yet."""
        there = cells.done(self.store, job.cell.folder)
        shards = self.manifests[job.cell.dataset].shards
        return bytearray(shard.name not in there for shard in shards)

    def _items(
        self, jobs: Sequence[Job], left: Mapping[str, bytearray], start: float
    ) -> Iterator[Item]:
        """Made when they are wanted: a sweep has millions."""
        for dataset in dict.fromkeys(job.cell.dataset for job in jobs):
            shards = self.manifests[dataset].shards
            mine = [job for job in jobs if job.cell.dataset == dataset]
            first = int(start * len(shards))
            for number in (*range(first, len(shards)), *range(first)):
                for job in mine:
                    if left[job.cell.folder][number]:
                        yield _item(job, shards[number])

    def budgets(self, jobs: Sequence[Job]) -> dict[str, Budget]:
        """What each cell may lose, and has lost so far, by its folder."""
        found = {}
        for job in jobs:
            planned, _, failed = self.counts(job)
            share = job.config.max_failed_share
            found[job.cell.folder] = Budget(str(job.cell), planned, failed.total(), share)
        return found

    def counts(self, job: Job) -> tuple[int, int, Counter[str]]:
        """Rows planned, rows done, and failed rows by kind; from listing and footers alone."""
        planned = self.manifests[job.cell.dataset]
        names = {s.name for s in planned.shards} & cells.done(self.store, job.cell.folder)
        rows, failed = cells.failed_rows(self.store, job.cell.folder, names)
        return planned.rows, rows, failed


def _item(job: Job, shard: manifest.Shard) -> Item:
    digests = (shard.rows_digest, shard.images_digest)
    return Item(job.task, shard.name, shard.rows, str(job.cell), digests)


def store_of(members: Sequence[Member], tell: Callable[[Exception], Any]) -> Store:
    """The one output folder of a command."""
    composed = [m.config for m in members if m.config is not None]
    if not composed:
        told = {e.what: e.mend for e in (tell(m.error) for m in members if m.error is not None)}
        raise LmmsteerError(" ".join(told), next(iter(told.values()), ""))
    outs = {str(config.out) for config in composed}
    if len(outs) > 1:
        raise LmmsteerError(
            f"The members of a sweep share one output folder, not {len(outs)}.",
            "Give one out=FOLDER",
        )
    return open_store(outs.pop())
