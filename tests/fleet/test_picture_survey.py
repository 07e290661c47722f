"""Pictures that cannot be shown or occur twice, found before anything is answered."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from lmmsteer import manifest
from lmmsteer.datasets.base import Sample, picture_of_bytes
from lmmsteer.fleet.picture_survey import Finding, Survey, path_of, survey
from lmmsteer.schema import Picture
from lmmsteer.store import LocalStore
from tests.conftest import png

GONE = Picture("gone", None, None, "picture_missing", "gone is not there")
BYTES = {
    "red": png("red"),
    "again": png("red"),
    "cut": png("blue")[:60],
    "text": b"no picture",
    "green": png("green"),
    "cut too": png("blue")[:60],
    "third": png("red"),
}


class Mixed:
    name = "mixed"

    def samples(self) -> Iterator[Sample]:
        for name, data in BYTES.items():
            picture = picture_of_bytes(name, data)
            yield Sample(name, lambda p=picture: p)
        yield Sample("gone", lambda: GONE)


def found(store: LocalStore) -> tuple[Survey, list[tuple[int, int]]]:
    asked = manifest.identity({"name": "mixed"}, {"a": "What?"}, [0], None, 3)
    made = manifest.build(store, "mixed", Mixed(), asked)
    told: list[tuple[int, int]] = []
    return survey(store, made, 2, lambda *counts: told.append(counts)), told


def test_every_picture_is_looked_at_and_each_trouble_has_its_kind(tmp_path: Path) -> None:
    looked, told = found(LocalStore(tmp_path))
    assert looked.pictures == 8
    assert told == [(3, 1), (3, 2), (2, 1)]
    assert [(f.image_id, f.part[:10], f.kind) for f in looked.findings] == [
        ("cut", "part-00000", "picture_broken"),
        ("text", "part-00001", "picture_broken"),
        ("cut too", "part-00001", "picture_broken"),
        ("gone", "part-00002", "picture_missing"),
        ("again", "part-00000", "twice"),
        ("cut too", "part-00001", "twice"),
        ("third", "part-00002", "twice"),
    ]
    assert [f.same_as for f in looked.findings[4:]] == ["red", "cut", "red"]
    assert all(f.reason for f in looked.findings)


def test_the_list_is_csv_whatever_an_id_holds() -> None:
    finding = Finding('a,"b"\nc', "part-00000.parquet", "twice", "x", "=é")
    (row,) = csv.DictReader(Survey(1, [finding]).to_csv().decode().splitlines(keepends=True))
    assert row == {
        "image_id": 'a,"b"\nc',
        "part": "part-00000.parquet",
        "kind": "twice",
        "reason": "x",
        "same_as": "=é",
    }
    assert path_of("faces") == "report/pictures-faces.csv"
