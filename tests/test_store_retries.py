"""What is asked again, how long is waited between, and what is never said."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.store import ObjectStore, Unreadable, open_store
from lmmsteer.store.log_buffer import LogBuffer
from lmmsteer.store.retries import Retries, passes, scrubbed
from tests.memory_bucket import MemoryBucket

SLOW_DOWN = OSError("When uploading x: AWS Error SLOW_DOWN during PutObject operation: Slow")
DENIED = OSError("When uploading x: AWS Error ACCESS_DENIED during PutObject operation: No")


def store_of(bucket: MemoryBucket, waits: list[float], every: float = 60.0) -> ObjectStore:
    retries = Retries(sleep=waits.append, random=lambda: 0.5)
    return ObjectStore(
        bucket.filesystem(), "bucket/run", "s3://bucket/run", retries=retries, every=every
    )


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("AWS Error SLOW_DOWN during PutObject operation: Reduce your rate", True),
        ("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No body.", True),
        ("AWS Error UNKNOWN (HTTP status 500) during HeadObject operation: No body.", True),
        ("AWS Error UNKNOWN (HTTP status 429) during PutObject operation: TooManyRequests", True),
        ("AWS Error UNKNOWN (HTTP status 409) during PutObject operation: Aborted", True),
        ("AWS Error INTERNAL_FAILURE during GetObject operation: We had a problem", True),
        ("AWS Error REQUEST_TIMEOUT during PutObject operation: idle", True),
        ("AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 56, reset", True),
        ("google::cloud::Status(UNAVAILABLE: Retry policy exhausted)", True),
        ("AWS Error ACCESS_DENIED during PutObject operation: Access Denied", False),
        ("AWS Error NO_SUCH_BUCKET during PutObject operation: no such bucket", False),
        ("AWS Error INVALID_ACCESS_KEY_ID during PutObject operation: no such key id", False),
        ("AWS Error SIGNATURE_DOES_NOT_MATCH during PutObject operation: differs", False),
        ("AWS Error UNKNOWN (HTTP status 412) during PutObject operation: condition", False),
        ("AWS Error UNKNOWN (HTTP status 301) during HeadObject operation: elsewhere", False),
        ("google::cloud::Status(PERMISSION_DENIED: no storage.objects.create)", False),
    ],
)
def test_only_faults_that_pass_are_asked_again(text: str, again: bool) -> None:
    assert passes(OSError(text)) is again


def test_a_missing_file_is_not_asked_for_again_and_a_lost_connection_is() -> None:
    assert not passes(FileNotFoundError("HTTP status 503"))
    assert passes(ConnectionResetError())
    assert passes(TimeoutError())


def test_waits_double_up_to_a_bound_times_a_random_share() -> None:
    waits: list[float] = []
    shares = iter([1.0, 0.5, 0.25, 0.0, 1.0, 1.0])
    retries = Retries(7, first=1.0, most=8.0, sleep=waits.append, random=lambda: next(shares))

    def ask() -> None:
        raise SLOW_DOWN

    with pytest.raises(OSError, match="SLOW_DOWN"):
        retries.run(ask)
    assert waits == [1.0, 1.0, 1.0, 0.0, 8.0, 8.0]


def test_a_busy_store_is_written_in_the_end() -> None:
    bucket, waits = MemoryBucket(), []
    bucket.plan("upload", SLOW_DOWN, SLOW_DOWN)
    bucket.plan("read", None, None, SLOW_DOWN)
    assert store_of(bucket, waits).create("part", b"data")
    assert bucket.objects == {"bucket/run/part": b"data"}
    assert waits == [0.125, 0.25, 0.125]


def test_tries_end_with_one_sentence() -> None:
    bucket, waits = MemoryBucket(), []
    bucket.plan("upload", *[SLOW_DOWN] * 100)
    with pytest.raises(RunFailed) as caught:
        store_of(bucket, waits).create("part", b"data")
    assert bucket.asked.count("upload") == 8
    assert caught.value.what == (
        "s3://bucket/run/part cannot be written: AWS Error SLOW_DOWN during PutObject operation:"
        " Slow."
    )
    assert "tried 8 times" in caught.value.mend


def test_who_has_no_right_is_told_at_once() -> None:
    bucket, waits = MemoryBucket(), []
    bucket.plan("upload", *[DENIED] * 100)
    with pytest.raises(RunFailed, match="ACCESS_DENIED") as caught:
        store_of(bucket, waits).create("part", b"data")
    assert bucket.asked.count("upload") == 1
    assert waits == []
    assert "AWS_ACCESS_KEY_ID" in caught.value.mend


@pytest.mark.parametrize("error", [SLOW_DOWN, DENIED, ConnectionResetError()])
def test_an_upload_that_was_done_and_denied_is_found_by_reading_back(error: Exception) -> None:
    bucket, waits = MemoryBucket(), []
    bucket.plan("upload", error)
    bucket.after = True
    assert store_of(bucket, waits).create("part", b"data")
    assert bucket.asked.count("upload") == 1
    assert waits == []


def test_an_object_that_is_not_seen_for_a_while_is_waited_for() -> None:
    bucket, waits = MemoryBucket(), []
    bucket.plan("read", FileNotFoundError(), FileNotFoundError())
    assert store_of(bucket, waits).create("part", b"data")
    assert waits == [0.125, 0.25]


def test_another_writers_bytes_are_not_taken_for_ours() -> None:
    class Other(MemoryBucket):
        def open_input_stream(self, path: str) -> object:
            self.objects[path] = b"another's"
            return super().open_input_stream(path)

        open_input_file = open_input_stream  # type: ignore[assignment]

    bucket = Other()
    with pytest.raises(RunFailed, match="reads back differently"):
        store_of(bucket, []).create("part", b"data")


def test_a_move_that_was_killed_after_copying_is_ended() -> None:
    bucket = MemoryBucket()
    bucket.objects = {"bucket/run/a": b"data", "bucket/run/trash/a": b"data"}
    store_of(bucket, []).move("a", "trash/a")
    assert bucket.objects == {"bucket/run/trash/a": b"data"}


def test_opening_a_file_is_asked_again() -> None:
    bucket, waits = MemoryBucket(), []
    bucket.objects = {"bucket/run/a": b"0123456789"}
    store = store_of(bucket, waits)
    bucket.plan("read", SLOW_DOWN)
    assert store.open_input("a").read(3) == b"012"
    assert waits == [0.125]
    bucket.plan("read", DENIED)
    with pytest.raises(Unreadable, match="s3://bucket/run/a cannot be read: AWS Error ACCESS"):
        store.open_input("a")


def test_a_store_tries_out_its_rights_once_and_leaves_nothing() -> None:
    bucket = MemoryBucket()
    store = store_of(bucket, [])
    assert store.commit == store.commit
    assert bucket.asked.count("upload") == 1
    assert bucket.objects == {}
    bucket.plan("delete", DENIED)
    with pytest.raises(RunFailed, match="ACCESS_DENIED"):
        _ = store_of(bucket, []).commit


def test_a_closed_store_says_so() -> None:
    store = store_of(MemoryBucket(), [])
    store.close()
    with pytest.raises(RunFailed, match="s3://bucket/run was closed"):
        store.list()


@pytest.mark.parametrize(
    "out",
    [
        "s3://AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI@bucket/run",
        "s3://AKIAIOSFODNN7EXAMPLE@bucket/run",
        "s3://bucket/run?access_key=AKIAIOSFODNN7EXAMPLE&secret_key=wJalrXUtnFEMI",
        "s3://bucket/run?endpoint_override=https://me:wJalrXUtnFEMI@host",
        "s3://bucket/run?session_token=wJalrXUtnFEMI",
    ],
)
def test_an_address_with_credentials_is_refused_without_repeating_them(out: str) -> None:
    with pytest.raises(LmmsteerError) as caught:
        open_store(out)
    assert "s3://bucket/run holds credentials" in caught.value.what
    assert "AWS_ACCESS_KEY_ID" in caught.value.mend
    assert "EXAMPLE" not in str(caught.value)
    assert "wJalr" not in str(caught.value)


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("s3:///run", "it names no bucket"),
        ("s3://bucket/run?colour=red", "colour=red is no option"),
        ("s3://bucket/run?allow_bucket_creation=yes", "flags are true or false"),
        ("abfs://bucket/run", "abfs:// is not known"),
    ],
)
def test_an_address_that_cannot_be_opened_says_why(out: str, why: str) -> None:
    with pytest.raises(LmmsteerError, match=why):
        open_store(out)


def test_texts_of_an_sdk_lose_every_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    text = scrubbed(
        "no\n rights for AKIAIOSFODNN7EXAMPLE at https://me:pass@host/?X-Amz-Signature=ab12&b=1"
        " with wJalrXUtnFEMI/K7MDENG"
    )
    assert text == "no rights for *** at https://***@host/?X-Amz-Signature=***&b=1 with ***"


def test_a_log_of_thousands_of_lines_is_sent_a_few_times() -> None:
    sent: list[bytes] = []
    buffer = LogBuffer(lambda path: b"", lambda path, text: sent.append(text), every=60.0)
    lines = [f"line {n}" for n in range(5000)]
    for line in lines:
        buffer.append("logs/x", line)
    buffer.flush()
    assert sent[-1].decode().splitlines() == lines
    assert len(sent) <= 2
    buffer.flush()
    assert len(sent) <= 2
    buffer.close()


def test_a_line_is_sent_without_another_to_push_it() -> None:
    bucket = MemoryBucket()
    store = store_of(bucket, [], every=0.01)
    store.append("logs/x", "one")
    store.append("logs/x", "two")
    wait_for(lambda: bucket.objects.get("bucket/run/logs/x") == b"one\ntwo\n")
    store.close()


def test_lines_that_could_not_be_sent_are_sent_with_the_next() -> None:
    bucket, waits = MemoryBucket(), []
    bucket.plan("upload", *[DENIED] * 3)
    store = store_of(bucket, waits, every=0.01)
    store.append("logs/x", "one")
    wait_for(lambda: bucket.objects.get("bucket/run/logs/x") == b"one\n")
    bucket.plan("upload", *[DENIED] * 1000)
    store.append("logs/x", "two")
    with pytest.raises(RunFailed, match="ACCESS_DENIED"):
        store.flush()
    bucket.plan("upload")
    store.close()
    assert bucket.objects["bucket/run/logs/x"] == b"one\ntwo\n"


def test_a_log_that_is_there_goes_on_where_it_ended() -> None:
    bucket = MemoryBucket()
    bucket.objects = {"bucket/run/logs/x": b"before\n"}
    store = store_of(bucket, [])
    store.append("logs/x", "after")
    store.close()
    assert bucket.objects["bucket/run/logs/x"] == b"before\nafter\n"


def wait_for(condition: Callable[[], bool]) -> None:
    """At most half a minute."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")
