"""Every part of an output folder re-read and compared with what it should be.

Rests on three things: a part and a record hold a seal of all their bytes; the manifest says which
rows a shard has and each row's id hashes what it is of; the names that should be there follow from
the manifest and the cells' records. So a flipped bit, a cut, a swap, a stale copy and a lost or
added file are each named, by the path below `out`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby

from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet.verify import artifacts, pool, repeats
from lmmsteer.fleet.verify.faults import Fault
from lmmsteer.fleet.verify.listing import Listing
from lmmsteer.fleet.verify.repair import aside, stamp
from lmmsteer.fleet.verify.survey import Survey
from lmmsteer.fleet.verify.units import Outcome, Unit
from lmmsteer.store import Store

__all__ = ["Fault", "Findings", "Settings", "aside", "stamp", "verify"]


@dataclass(frozen=True)
class Settings:
    """sample: share of the shards whose files are read, chosen by a hash of their name and `seed`.

    workers: processes (None: by the work there is). grace: seconds for which a temporary file is
    taken for a living writer's.
    """

    sample: float = 1.0
    seed: int = 0
    workers: int | None = None
    grace: float = 3600.0


@dataclass
class Findings:
    """faults: in the order of their paths. checked: parts that were read, of so many `parts`.

    unsealed: files of older versions, whose rows were checked and not every byte. foreign: parts
    that lmmsteer did not write. cells: those whose record is well.
    """

    faults: list[Fault] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    checked: int = 0
    parts: int = 0
    unsealed: int = 0
    cells: int = 0


def verify(
    store: Store,
    settings: Settings | None = None,
    tell: Callable[[int, int], None] = lambda parts, of: None,
) -> Findings:
    """Everything that is wrong below the output folder. tell: more parts were read, of so many.

    Raises: LmmsteerError where there is nothing to verify.
    """
    settings = settings or Settings()
    listing = Listing.of(store, settings.grace)
    if listing.empty:
        raise LmmsteerError(
            f"{store.root} holds no manifest, answers or artifacts to verify.",
            "Name the folder that lmmsteer generate was given: out=FOLDER",
        )
    survey = Survey(store, listing)
    chosen = [unit for unit in survey.units if _chosen(unit, settings)]
    found = Findings(survey.faults, unsealed=survey.unsealed, cells=len(survey.records))
    found.parts = sum(unit.files for unit in survey.units)
    of = sum(unit.files for unit in chosen)
    found.faults += artifacts.check(store, listing.artifacts, survey.records.values())
    outcomes = pool.check(store, chosen, settings.workers)
    for _, shards in groupby(outcomes, lambda outcome: outcome.unit.source.dataset):
        found.faults += _gather(found, shards, lambda parts: tell(parts, of))
    found.faults.sort(key=str)
    return found


def _gather(
    found: Findings, outcomes: Iterable[Outcome], tell: Callable[[int], None]
) -> list[Fault]:
    """Add up a data set's shards; the faults that only show between them."""
    units, hashes = [], []
    for outcome in outcomes:
        found.faults += outcome.faults
        found.foreign += outcome.foreign
        found.unsealed += outcome.unsealed
        found.checked += outcome.unit.files
        units.append(outcome.unit)
        hashes.append(outcome.images)
        tell(outcome.unit.files)
    return repeats.repeated(units, hashes)


def _chosen(unit: Unit, settings: Settings) -> bool:
    name = f"{settings.seed} {unit.source.dataset} {unit.part}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < settings.sample * 2**64
