import errno
import os
import threading
from pathlib import Path

import pytest
from pyarrow import fs

from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.store import LocalStore, ObjectStore, Store, open_store


@pytest.fixture(params=["disk", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return LocalStore(tmp_path / "out")
    (tmp_path / "out").mkdir()
    return ObjectStore(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "out", "s3://b")


def test_what_was_created_reads_back_and_is_listed(store: Store) -> None:
    assert store.create("a/b.txt", b"one")
    assert store.read_bytes("a/b.txt") == b"one"
    assert store.exists("a/b.txt")
    assert store.list() == store.list("a") == ["a/b.txt"]
    assert store.list("nothing") == []


def test_a_name_that_exists_is_never_written_again(store: Store) -> None:
    store.create("a.txt", b"one")
    assert not store.create("a.txt", b"two")
    assert store.read_bytes("a.txt") == b"one"


def test_a_derived_file_is_replaced(store: Store) -> None:
    store.write_bytes("a.txt", b"one")
    store.write_bytes("a.txt", b"two")
    assert store.read_bytes("a.txt") == b"two"
    with pytest.raises(FileExistsError):
        store.write_bytes("a.txt", b"three", overwrite=False)


def test_a_moved_file_is_at_its_new_place_alone(store: Store) -> None:
    store.create("a.txt", b"one")
    store.move("a.txt", "trash/x/a.txt")
    assert store.list() == ["trash/x/a.txt"]


def test_a_log_grows_line_by_line(store: Store) -> None:
    store.append("logs/x.jsonl", "one")
    store.append("logs/x.jsonl", "two")
    assert store.read_bytes("logs/x.jsonl") == b"one\ntwo\n"


def test_of_many_writers_one_wins_and_its_bytes_stay(tmp_path: Path) -> None:
    won: list[int] = []

    def write(number: int) -> None:
        if LocalStore(tmp_path).create("part", bytes([number]) * 100_000):
            won.append(number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (tmp_path / "part").read_bytes() == bytes(won) * 100_000
    assert os.listdir(tmp_path) == ["part"]


def test_temporary_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".part.tmp").write_bytes(b"half")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x").write_bytes(b"half")
    assert LocalStore(tmp_path).list() == []


@pytest.mark.parametrize("operation", ["fsync", "link"])
def test_a_disk_that_refuses_leaves_nothing_behind(
    operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, operation, full)
    with pytest.raises(RunFailed, match="No space left on device") as caught:
        LocalStore(tmp_path).create("part", b"data")
    assert "Free some space" in caught.value.mend
    assert os.listdir(tmp_path) == []


def test_what_reads_back_differently_is_not_made_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"other")
    with pytest.raises(RunFailed, match="reads back differently"):
        LocalStore(tmp_path).create("part", b"data")
    assert os.listdir(tmp_path) == []


def test_an_unknown_address_is_refused_in_one_sentence() -> None:
    with pytest.raises(LmmsteerError, match="cannot be opened"):
        open_store("nonsense://bucket/x")
