"""The same study on disk and in a bucket: the same scores, the same page."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

import analysis
from analysis import Analysis, Report, report, view
from analysis.frame import Output
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import LocalStore, ObjectStore
from lmmsteer.store.retries import Retries
from tests.analysis import build
from tests.analysis.conftest import quiet
from tests.memory_bucket import MemoryBucket

ROOT = "s3://bucket/study"


@pytest.fixture(name="memory")
def _memory(store: LocalStore) -> MemoryBucket:
    """The output folder's files as objects."""
    build.sweep(store.folder, pictures=12, seeds=1)
    memory = MemoryBucket()
    for path in store.list():
        memory.objects[f"bucket/study/{path}"] = store.read_bytes(path)
    return memory


@pytest.fixture(name="bucket")
def _bucket(memory: MemoryBucket) -> ObjectStore:
    retries = Retries(sleep=lambda _: None)
    return ObjectStore(memory.filesystem(), "bucket/study", ROOT, retries=retries)


def made(store: LocalStore | ObjectStore) -> list[str]:
    paths = analysis.run(store, ["all"], Analysis(bootstrap=20, permutations=20), quiet)
    return [*paths, *report.write(store, Report(gallery=8))]


def test_scores_and_page_are_those_of_the_folder(
    store: LocalStore, bucket: ObjectStore, memory: MemoryBucket, tmp_path: Path
) -> None:
    paths = made(store)
    assert made(bucket) == paths
    for path in paths:
        data = memory.objects[f"bucket/study/{path}"]
        if path.endswith(".parquet"):
            (tmp_path / "found.parquet").write_bytes(data)
            found = pl.read_parquet(tmp_path / "found.parquet")
            assert found.equals(pl.read_parquet(store.folder / path)), path
        else:
            assert data == store.read_bytes(path), path


def test_pictures_are_served_from_a_bucket(bucket: ObjectStore, store: LocalStore) -> None:
    made(bucket)
    site = view.Site(bucket)
    sent = pq.read_table(store.folder / "manifest/dataset=people/images/part-00000.parquet")
    found = site.find("/pictures/people/p000")
    assert found is not None
    assert found.data == sent["bytes"][0].as_py()
    page = site.find("/")
    assert page is not None
    assert b"data-pictures" in page.data


def test_a_damaged_part_in_a_bucket_is_named(bucket: ObjectStore, memory: MemoryBucket) -> None:
    key = next(key for key in sorted(memory.objects) if "responses" in key and "part-" in key)
    memory.objects[key] = memory.objects[key][:-10]
    with pytest.raises(LmmsteerError, match=f"{key.removeprefix('bucket/study/')} is damaged"):
        _ = Output(bucket).cells
