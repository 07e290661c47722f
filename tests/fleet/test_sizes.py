from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lmmsteer import manifest
from lmmsteer.datasets.base import Sample, picture_of_bytes
from lmmsteer.datasets.demo import Demo
from lmmsteer.fleet import sizes
from lmmsteer.schema import Picture
from lmmsteer.store import LocalStore
from tests.fleet.outputs import cell, part


@dataclass(frozen=True)
class Unread:
    """A data set of `pictures` pictures; those that are read are noted."""

    name: str
    pictures: int
    read: list[int]

    def samples(self) -> Iterator[Sample]:
        return (Sample(str(n), lambda n=n: self._read(n)) for n in range(self.pictures))

    def _read(self, number: int) -> Picture:
        self.read.append(number)
        return picture_of_bytes(str(number), bytes([number % 256]) * 100)


def identity(limit: int | None = None, shard_images: int = 16) -> dict[str, object]:
    return manifest.identity({}, {"p": "What?", "q": "Who?"}, [0, 1, 2], limit, shard_images)


def test_pictures_are_counted_and_only_a_few_read(tmp_path: Path) -> None:
    data = Unread("d", 1000, [])
    found = sizes.extent_of(None, data, identity(limit=900))
    assert (found.pictures, found.rows, found.shards) == (900, 5400, 57)
    assert found.files == 2 * 57 + 1
    assert len(data.read) == 64
    assert max(data.read) < 900
    assert max(data.read) > 450  # not the first ones alone


def test_a_manifests_bytes_are_estimated_to_a_tenth(tmp_path: Path) -> None:
    data = Demo("demo", images=60)
    asked = identity()
    expected = sizes.extent_of(None, data, asked)
    store = LocalStore(tmp_path)
    made = manifest.build(store, "demo", data, asked)
    written = [path for path in store.list("manifest") if path.endswith(".parquet")]
    assert (expected.rows, expected.shards) == (made.rows, len(made.shards))
    assert len(written) == expected.files - 1
    actual = sum((tmp_path / path).stat().st_size for path in written)
    assert expected.bytes == pytest.approx(actual, rel=0.1)
    there = sizes.extent_of(made, data, asked)
    assert (there.files, there.bytes, there.rows) == (0, 0, made.rows)


def test_a_responses_bytes_are_those_of_parts_that_are_there(tmp_path: Path) -> None:
    record = cell(tmp_path)
    store = LocalStore(tmp_path)
    assert sizes.row_bytes(store, record.cell.folder, []) is None
    made = [part(tmp_path, record, number) for number in range(40)]
    expected = sum(path.stat().st_size for path in made) / 400
    names = [path.name for path in made]
    assert sizes.row_bytes(store, record.cell.folder, names) == pytest.approx(expected, rel=0.01)


def test_the_room_is_that_of_the_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    free = sizes.free_bytes(LocalStore(tmp_path / "a" / "b"))
    assert free is not None
    assert free > 0
    assert not (tmp_path / "a").exists()
