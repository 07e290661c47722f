"""A real server that speaks Google Cloud Storage."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from lmmsteer.errors import RunFailed
from lmmsteer.store import Store, open_store
from tests.s3_server import free_port


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The emulator's, which keeps a bucket named study in its memory."""
    number = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory"]
    command += ["--host=127.0.0.1", f"--port={number}", "--default-bucket=study"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{number}/", timeout=60).close()
                break
            time.sleep(0.1)
        assert process.poll() is None, "the emulator did not start"
        yield number
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def options(port: int) -> str:
    return f"?endpoint_override=127.0.0.1:{port}&scheme=http"


@pytest.fixture
def store(options: str) -> Store:
    return open_store(f"gs://anonymous@study/run{options}")


def test_a_part_is_made_once_read_listed_and_moved(store: Store) -> None:
    assert store.create("responses/part", b"data" * 1000)
    assert not store.create("responses/part", b"other")
    assert store.read_bytes("responses/part") == b"data" * 1000
    assert store.list("responses") == ["responses/part"]
    with store.open_input("responses/part") as file:
        assert file.size() == 4000
    store.move("responses/part", "trash/part")
    assert store.list() == ["trash/part"]
    assert store.commit.startswith("one upload")
    with pytest.raises(FileNotFoundError):
        store.read_bytes("responses/part")


def test_a_log_is_whole_after_flushing(store: Store) -> None:
    for line in ("one", "two", "three"):
        store.append("logs/x", line)
    store.flush()
    assert store.read_bytes("logs/x") == b"one\ntwo\nthree\n"


def test_a_bucket_that_is_not_there_is_named(options: str) -> None:
    store = open_store(f"gs://anonymous@nowhere/run{options}")
    with pytest.raises(RunFailed, match=r"gs://nowhere/run/part cannot be written: .*NOT_FOUND"):
        store.create("part", b"data")
