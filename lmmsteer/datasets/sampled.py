"""A sample of a data set: so many pictures, or counterfactual sets, of every group, by a seed."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from lmmsteer.config import SampleConfig
from lmmsteer.datasets.base import DataSet, Sample
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import LABELS

UNITS = ("image_id", "group_id")


@dataclass(frozen=True)
class Sampled:
    """The drawn pictures of `source`, in its order.

    A group is what has the same values in the columns `by`: labels, or columns of `extra`; a
    picture without one of them is in none. Of every group the `each` units with the lowest hashes
    of seed and id are drawn, all where there are fewer, so that a larger `each` keeps what a
    smaller one has drawn, whatever the order of the files. A unit is a picture (image_id), or a
    counterfactual set (group_id), which comes whole.
    """

    source: DataSet
    each: int
    by: tuple[str, ...] = ()
    unit: str = "image_id"
    seed: int = 0

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def picture_bytes(self) -> int | None:
        """The source's, where it says."""
        return getattr(self.source, "picture_bytes", None)

    def samples(self) -> Iterator[Sample]:
        drawn = self._drawn
        for sample in self.source.samples():
            if _unit(sample, self.unit) in drawn:
                yield sample

    @cached_property
    def _drawn(self) -> frozenset[str]:
        """Ids of the drawn units. Memory: `each` of every group.

        Raises: LmmsteerError where no picture is in a group.
        """
        lowest: dict[tuple[str, ...], dict[str, int]] = {}
        heaps: dict[tuple[str, ...], list[tuple[int, str]]] = {}
        for sample in self.source.samples():
            group, unit = _group(sample, self.by), _unit(sample, self.unit)
            if group is None or unit is None:
                continue
            mine, heap = lowest.setdefault(group, {}), heaps.setdefault(group, [])
            hashed = self._hash(unit)
            if unit in mine or (len(heap) == self.each and -heap[0][0] <= hashed):
                continue
            mine[unit] = hashed
            heapq.heappush(heap, (-hashed, unit))
            if len(heap) > self.each:
                del mine[heapq.heappop(heap)[1]]
        if not lowest:
            columns = ", ".join((*self.by, *([self.unit] if self.unit != "image_id" else ())))
            raise LmmsteerError(
                f"No picture of {self.name} has {columns or 'an id'}, so none can be drawn.",
                f"Name labels that it has: sample.by=[gender]; all are {', '.join(LABELS)}.",
            )
        return frozenset(unit for mine in lowest.values() for unit in mine)

    def _hash(self, unit: str) -> int:
        digest = hashlib.blake2b(f"{self.seed}\0{unit}".encode(), digest_size=8)
        return int.from_bytes(digest.digest(), "big")


def sampled(source: DataSet, config: SampleConfig) -> DataSet:
    """What a config's `sample` leaves of a data set. Raises: LmmsteerError that names the key."""
    if config.each is None:
        for key, value in (("by", config.by), ("unit", config.unit), ("seed", config.seed)):
            if value != getattr(SampleConfig(), key):
                raise LmmsteerError(
                    f"sample.{key}={value} says nothing without sample.each.",
                    "Say how many of every group: sample.each=100",
                )
        return source
    if config.each < 1:
        raise LmmsteerError(
            f"sample.each={config.each} is not a positive number.", "Give sample.each=1 or more."
        )
    if config.unit not in UNITS:
        raise LmmsteerError(
            f"sample.unit={config.unit} is not known.", f"Choose one of {', '.join(UNITS)}."
        )
    return Sampled(source, config.each, tuple(config.by), config.unit, config.seed)


def _group(sample: Sample, by: Sequence[str]) -> tuple[str, ...] | None:
    values = [sample.labels.get(name) or sample.extra.get(name) for name in by]
    return tuple(value for value in values if value) if all(values) else None


def _unit(sample: Sample, unit: str) -> str | None:
    return sample.image_id if unit == "image_id" else sample.group_id
