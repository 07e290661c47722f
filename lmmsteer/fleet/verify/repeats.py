"""Image ids that stand in two parts of a manifest, found in sixteen bytes for each picture.

Row ids need no search of their own: each is checked to be the hash of its picture, prompt and seed,
each response part to hold its shard's, and no shard holds one twice; so a row can only come twice
where a picture does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmmsteer import manifest
from lmmsteer.fleet.verify.faults import Fault
from lmmsteer.fleet.verify.units import HASH_BYTES, Unit


def repeated(units: Sequence[Unit], hashes: Sequence[bytes]) -> list[Fault]:
    """A fault for each part that holds an image id of an earlier one. units: of one data set."""
    words = np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, HASH_BYTES // 8)
    order = np.lexsort(words.T)  # Stable, so that of equal ids the earlier comes first.
    same = (words[order[1:]] == words[order[:-1]]).all(axis=1)
    ends = np.cumsum([len(part) // HASH_BYTES for part in hashes])
    first, later = (np.searchsorted(ends, at[same], "right") for at in (order[:-1], order[1:]))
    pairs = sorted(set(zip(later.tolist(), first.tolist(), strict=True)))
    return [_fault(units[later], units[first]) for later, first in pairs]


def _fault(unit: Unit, first: Unit) -> Fault:
    path = f"{manifest.folder(unit.source.dataset)}/images/{unit.part}"
    return Fault(path, f"holds an image id that {first.part} holds too", "repeated")
