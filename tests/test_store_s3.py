"""Buckets of a real server that speaks S3, and one that misbehaves between it and us."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import boto3
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from lmmsteer import manifest, parts
from lmmsteer.errors import RunFailed
from lmmsteer.store import ObjectStore, Unreadable, open_store
from lmmsteer.store.bucket import open_bucket
from lmmsteer.store.retries import Retries
from tests import s3_server
from tests.s3_server import Faults, refuse
from tests.test_manifest import PROMPTS, Colors, asked

SECRET = "wJalrXUtnFEMI/K7MDENG"
PART = os.urandom(100_000)
Opened = Callable[..., ObjectStore]


@pytest.fixture(scope="module")
def moto() -> Iterator[int]:
    with s3_server.moto() as port:
        yield port


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def way(moto: int) -> Iterator[tuple[int, Faults]]:
    """A port of the proxy, and what is to go wrong on the way."""
    with s3_server.proxy(moto) as found:
        yield found


@pytest.fixture
def faults(way: tuple[int, Faults]) -> Faults:
    return way[1]


@pytest.fixture
def out(way: tuple[int, Faults]) -> str:
    """The address of a folder in a bucket that is made when it is first written to."""
    options = "scheme=http&region=us-east-1&allow_bucket_creation=true"
    name = uuid.uuid4().hex[:12]
    return f"s3://bucket-{name}/study/one?endpoint_override=127.0.0.1:{way[0]}&{options}"


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def opened(out: str, waits: list[float]) -> Iterator[Opened]:
    """Opens the folder; the waits between tries are noted, not waited."""
    stores: list[ObjectStore] = []

    def open_(address: str = out, every: float = 60.0) -> ObjectStore:
        retries = Retries(sleep=waits.append, random=lambda: 0.5)
        found = open_bucket(address, retries)
        keys = {"retries": retries, "every": every}
        store = ObjectStore(found.filesystem, found.base, address, found.creation, **keys)  # type: ignore[arg-type]
        stores.append(store)
        return store

    yield open_
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Opened, faults: Faults) -> ObjectStore:
    """The folder, its bucket made."""
    made = opened()
    made.write_bytes("first", b"")
    faults.seen.clear()
    return made


def test_a_part_is_made_once_read_back_listed_and_moved(store: ObjectStore, faults: Faults) -> None:
    assert store.create("responses/model=m/part-00000.parquet", PART)
    assert faults.count("PUT", "part-00000") == 1
    assert not store.create("responses/model=m/part-00000.parquet", b"other")
    assert store.read_bytes("responses/model=m/part-00000.parquet") == PART
    store.create("responses/model=m/.hidden.tmp", b"x")
    store.create("responses/.hidden/part", b"x")
    assert store.list("responses") == ["responses/model=m/part-00000.parquet"]
    assert store.list("nothing") == []
    store.move("responses/model=m/part-00000.parquet", "trash/part")
    store.move("responses/model=m/part-00000.parquet", "trash/part")
    assert store.list() == ["first", "trash/part"]
    assert store.read_bytes("trash/part") == PART
    assert store.local("first") is None
    assert store.free() is None
    assert store.collect() == []


def test_a_page_in_a_bucket_is_shown_by_a_browser_as_one(
    store: ObjectStore, moto: int, out: str
) -> None:
    store.write_bytes("report/report.html", b"<p>page")
    store.write_bytes("responses/part", b"bytes")
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{moto}", region_name="us-east-1")
    bucket, folder = urlsplit(out)[1:3]
    keys = [f"{folder}/{path}".lstrip("/") for path in ("report/report.html", "responses/part")]
    kinds = [client.head_object(Bucket=bucket, Key=key)["ContentType"] for key in keys]
    assert kinds[0] == "text/html; charset=utf-8"
    assert not kinds[1].startswith("text/")


def test_what_is_opened_by_its_root_is_the_same_store(store: ObjectStore, out: str) -> None:
    store.create("a b=c/ä", b"data")
    again = open_store(store.root)
    assert store.root == out
    assert again.list() == ["a b=c/ä", "first"]
    assert again.commit.startswith("one upload, read back")
    assert again.list() == ["a b=c/ä", "first"]


def test_of_many_writers_of_a_part_all_end_well_and_the_part_is_whole(opened: Opened) -> None:
    stores = [opened() for _ in range(6)]
    stores[0].write_bytes("first", b"")
    said: list[bool] = []
    threads = [
        threading.Thread(target=lambda s=s: said.append(s.create("part", PART))) for s in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 6
    assert any(said)
    assert stores[0].read_bytes("part") == PART


@pytest.mark.parametrize(
    "fault",
    [
        refuse(503, "SlowDown"),
        refuse(500, "InternalError"),
        refuse(429, "TooManyRequests"),
        refuse(409, "OperationAborted"),
        s3_server.reset,
    ],
    ids=["503", "500", "429", "409", "reset"],
)
def test_a_busy_server_is_asked_again(
    fault: s3_server.Fault, store: ObjectStore, faults: Faults, waits: list[float]
) -> None:
    faults.plan("PUT", "part", fault, fault)
    assert store.create("part", PART)
    assert store.read_bytes("part") == PART
    assert faults.count("PUT", "part") == 3
    assert waits == [0.125, 0.25]


@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE"])
def test_every_kind_of_request_is_asked_again(
    method: str, store: ObjectStore, faults: Faults, waits: list[float]
) -> None:
    store.create("part", PART)
    faults.plan(method, "study", *[refuse(503, "SlowDown")] * 3)
    faults.plan(method, "list-type", *[refuse(503, "SlowDown")] * 3)
    assert store.exists("part")
    assert store.read_bytes("part") == PART
    assert store.list() == ["first", "part"]
    store.move("part", "trash/part")
    assert store.list() == ["first", "trash/part"]
    assert waits


@pytest.mark.parametrize(
    "fault",
    [
        s3_server.do_and_refuse(500, "InternalError"),
        s3_server.do_and_refuse(412, "PreconditionFailed"),
        s3_server.do_and_reset,
    ],
    ids=["500", "412", "reset"],
)
def test_an_upload_that_was_done_though_the_answer_says_no_is_found(
    fault: s3_server.Fault, store: ObjectStore, faults: Faults, waits: list[float]
) -> None:
    faults.plan("PUT", "part", fault)
    assert store.create("part", PART)
    assert faults.count("PUT", "part") == 1
    assert waits == []


def test_an_object_that_shows_late_is_waited_for(
    store: ObjectStore, faults: Faults, waits: list[float]
) -> None:
    missing = refuse(404, "NoSuchKey")
    faults.plan("HEAD", "part", None, missing, missing)  # the first: is it there already?
    assert store.create("part", PART)
    assert len(waits) == 2


def test_a_slow_answer_is_a_whole_answer(store: ObjectStore, faults: Faults) -> None:
    store.create("part", PART[:1000])
    faults.plan("GET", "part", s3_server.trickle)
    assert store.read_bytes("part") == PART[:1000]


def test_who_may_not_write_is_told_so_at_once(
    store: ObjectStore, faults: Faults, waits: list[float]
) -> None:
    faults.plan("PUT", "part", *[refuse(403, "AccessDenied")] * 9)
    with pytest.raises(RunFailed, match="/study/one/part cannot be written") as caught:
        store.create("part", PART)
    assert "ACCESS_DENIED" in caught.value.what
    assert "on every machine of the run" in caught.value.mend
    assert faults.count("PUT", "part") == 1
    assert waits == []


def test_who_may_not_look_is_told_so_at_once(store: ObjectStore, faults: Faults) -> None:
    for method in ("GET", "HEAD"):
        faults.plan(method, "/bucket", *[refuse(403, "AccessDenied")] * 9)
    with pytest.raises(Unreadable, match="ACCESS_DENIED"):
        store.list()
    with pytest.raises(Unreadable, match="first cannot be read: AWS Error ACCESS_DENIED"):
        store.read_bytes("first")


def test_a_bucket_that_is_not_there_is_named_with_what_mends_it(
    opened: Opened, out: str, waits: list[float]
) -> None:
    store = opened(out.replace("&allow_bucket_creation=true", ""))
    assert store.list() == []
    with pytest.raises(RunFailed, match=r"s3://bucket-\w+/study/one/part cannot") as caught:
        store.create("part", PART)
    assert "NO_SUCH_BUCKET" in caught.value.what
    assert "allow_bucket_creation=true" in caught.value.mend
    assert waits == []


def test_a_server_that_stays_busy_ends_the_attempt(
    store: ObjectStore, faults: Faults, waits: list[float]
) -> None:
    faults.plan("PUT", "part", *[refuse(503, "SlowDown")] * 99)
    with pytest.raises(RunFailed, match="SLOW_DOWN"):
        store.create("part", PART)
    assert faults.count("PUT", "part") == 8
    assert waits == [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
    assert store.list() == ["first"]


def test_an_upload_in_pieces_of_which_one_fails_shows_nothing_half(
    store: ObjectStore, faults: Faults
) -> None:
    data = os.urandom(10_500_000)
    faults.plan("PUT", "partNumber=2", refuse(403, "AccessDenied"))
    with pytest.raises(RunFailed, match="ACCESS_DENIED"):
        store.create("big", data)
    assert store.list() == ["first"]
    faults.plan("PUT", "partNumber=1", refuse(503, "SlowDown"))
    assert store.create("big", data)
    assert store.read_bytes("big") == data


def test_an_answer_that_repeats_a_secret_is_not_repeated(
    store: ObjectStore, faults: Faults
) -> None:
    def fault(exchange: s3_server.Exchange) -> None:
        exchange.body()
        text = f"AKIAIOSFODNN7EXAMPLE signed with {SECRET} at http://me:pass@host/"
        body = f"<Error><Code>AccessDenied</Code><Message>{text}</Message></Error>"
        exchange.answer(403, [("Content-Type", "application/xml")], body.encode())

    faults.plan("PUT", "part", fault)
    with pytest.raises(RunFailed) as caught:
        store.create("part", PART)
    assert caught.value.what.endswith("*** signed with *** at http://***@host/.")
    assert caught.value.__cause__ is None


def test_a_footer_is_read_without_the_rows(store: ObjectStore, faults: Faults) -> None:
    manifest.build(store, "colors", Colors(), asked())
    store.create("large", b"PAR1" + os.urandom(4_000_000))
    faults.sent = 0
    with store.open_input("large") as file:
        file.seek(4_000_000)
        assert len(file.read()) == 4
    assert faults.sent < 1000
    faults.plan("GET", "rows/part-00000", refuse(503, "SlowDown"))
    with store.open_input("manifest/dataset=colors/rows/part-00000.parquet") as file:
        assert pq.read_metadata(file).num_rows == 2 * len(PROMPTS) * 3


def test_a_manifest_is_built_read_and_found_again_in_a_bucket(store: ObjectStore) -> None:
    made = manifest.build(store, "colors", Colors(), asked())
    before = {path: store.read_bytes(path) for path in store.list()}
    assert manifest.build(store, "colors", Colors(), asked()) == made
    assert {path: store.read_bytes(path) for path in store.list()} == before
    rows = manifest.read_rows(store, "colors", "part-00001.parquet")
    assert [row.image_id for row in rows] == ["blue"] * 6 + ["white"] * 6
    assert set(manifest.read_pictures(store, "colors", "part-00002.parquet")) == {"black"}
    footer = parts.read_footer(store, "manifest/dataset=colors/rows/part-00000.parquet")
    assert footer.rows == 12
    store.move("manifest/dataset=colors/rows/part-00001.parquet", "trash/1/part")
    assert manifest.missing(store, made) == ["part-00001.parquet"]
    manifest.build(store, "colors", Colors(), asked())
    after = {path: store.read_bytes(path) for path in store.list("manifest")}
    assert after == {path: data for path, data in before.items() if path.startswith("manifest/")}


def test_a_log_of_a_run_is_sent_a_few_times_and_whole(store: ObjectStore, faults: Faults) -> None:
    lines = [f'{{"event": "done", "part": {n}}}' for n in range(3000)]
    for line in lines:
        store.append("logs/generate.jsonl", line)
    store.flush()
    assert store.read_bytes("logs/generate.jsonl").decode().splitlines() == lines
    assert faults.count("PUT", "logs") <= 2


def test_a_process_that_used_a_bucket_ends_and_its_last_lines_are_there(out: str) -> None:
    script = """
import sys, threading
from lmmsteer.store import open_store
store = open_store(sys.argv[1])
store.create("part", b"data")
store.append("logs/x", "first")
store.append("logs/x", "last")
file = store.open_input("part")
forgotten = open_store(sys.argv[1])
forgotten.list()
threading.Thread(target=forgotten.read_bytes, args=("part",)).start()
print("done")
"""
    command = [sys.executable, "-c", script, out]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")
    assert open_store(out).read_bytes("logs/x") == b"first\nlast\n"


def test_a_process_that_cannot_send_its_last_lines_says_so_and_ends(
    store: ObjectStore, out: str, faults: Faults
) -> None:
    script = """
import sys
from lmmsteer.store import open_store
open_store(sys.argv[1]).append("logs/x", "last")
"""
    faults.plan("PUT", "logs", *[refuse(403, "AccessDenied")] * 99)
    command = [sys.executable, "-c", script, out]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.stderr == (
        f"lmmsteer: s3://{store.base}/logs/x cannot be written: AWS Error ACCESS_DENIED during"
        " PutObject operation: as the test asks.\n"
    )


def test_the_endpoint_may_come_from_the_environment(
    store: ObjectStore, way: tuple[int, Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{way[0]}")
    found = open_bucket(f"s3://{store.base}", Retries())
    assert isinstance(found.filesystem, fs.S3FileSystem)
    assert ObjectStore(found.filesystem, found.base, f"s3://{store.base}").list() == ["first"]
