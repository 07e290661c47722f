import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from lmmsteer.disk import Disk
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.store import LocalStore, ObjectStore, Store, Unreadable, open_store, require_free
from tests.memory_bucket import MemoryBucket


@pytest.fixture(params=["disk", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return LocalStore(tmp_path / "out")
    return ObjectStore(MemoryBucket().filesystem(), "bucket/run", "s3://bucket/run")


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


def test_a_move_takes_no_name_that_exists_and_made_again_is_nothing(store: Store) -> None:
    store.create("a.txt", b"one")
    store.create("trash/a.txt", b"other")
    with pytest.raises(RunFailed, match=r"trash/a.txt exists already, so .*a.txt stays"):
        store.move("a.txt", "trash/a.txt")
    store.move("a.txt", "trash/b.txt")
    store.move("a.txt", "trash/b.txt")
    assert store.list() == ["trash/a.txt", "trash/b.txt"]
    with pytest.raises(RunFailed, match=r"a\.txt is not there to be moved"):
        store.move("a.txt", "trash/c.txt")


def test_a_part_of_a_file_is_read_from_any_offset(store: Store) -> None:
    store.create("a.txt", bytes(range(200)))
    with store.open_input("a.txt") as file:
        file.seek(100)
        assert file.read(3) == bytes([100, 101, 102])
        assert file.size() == 200
    with pytest.raises(FileNotFoundError):
        store.open_input("b.txt")


def test_what_is_not_there_is_not_found(store: Store) -> None:
    assert not store.exists("a.txt")
    with pytest.raises(FileNotFoundError):
        store.read_bytes("a.txt")


def test_a_log_grows_line_by_line(store: Store) -> None:
    store.append("logs/x.jsonl", "one")
    store.append("logs/x.jsonl", "two")
    store.flush()
    assert store.read_bytes("logs/x.jsonl") == b"one\ntwo\n"


class NoLinks(Disk):
    """A file system without hard links, as exFAT and many of FUSE are."""

    def link(self, source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize(
    ("disk", "commit"), [(Disk(), "hard link"), (NoLinks(), "rename without replacing")]
)
def test_of_many_writers_one_wins_and_its_bytes_stay(
    disk: Disk, commit: str, tmp_path: Path
) -> None:
    won: list[int] = []

    def write(number: int) -> None:
        store = LocalStore(tmp_path, disk)
        assert store.commit == commit
        if store.create("part", bytes([number]) * 100_000):
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


def test_free_space_is_that_of_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    there = os.statvfs(tmp_path)
    free = LocalStore(tmp_path / "not" / "made").free()
    assert free is not None
    assert abs(free - there.f_bavail * there.f_frsize) < 2**30


def test_work_that_finds_no_room_is_refused_before_it_begins(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    require_free(store, 1)
    with pytest.raises(LmmsteerError, match="GiB free and needs 1048576"):
        require_free(store, 2**50)


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(RunFailed, match=f"{tmp_path}/out/a/part cannot be written: Not a dir"):
        LocalStore(tmp_path / "out").create("a/part", b"data")


def test_a_folder_that_is_deleted_under_the_run_is_named(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "out")
    store.create("a/first", b"data")
    shutil.rmtree(tmp_path / "out")
    for act in (lambda: store.create("a/b", b"x"), lambda: store.append("a/log", "x")):
        with pytest.raises(RunFailed, match=f"{tmp_path}/out was deleted or moved away") as caught:
            act()
        assert "Run the same command again" in caught.value.mend
    assert not (tmp_path / "out").exists()


def test_a_folder_that_may_not_be_written_or_listed_is_named() -> None:
    script = """
import os, sys
from pathlib import Path
from lmmsteer.errors import RunFailed
from lmmsteer.store import LocalStore
if os.geteuid() == 0:
    os.setuid(65534)  # no rights of the kernel's own: root may write anywhere
store = LocalStore(Path(sys.argv[1]))
for act in (
    lambda: store.create("closed/part", b"data"),
    lambda: store.list(),
    lambda: store.read_bytes("secret/part"),
    lambda: store.commit,
):
    try:
        act()
    except RunFailed as error:
        print(error.what.replace(sys.argv[1], "OUT"), error.mend, sep="|")
"""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        for folder in ("closed", "secret"):
            (out / folder).mkdir()
            (out / folder / "part").write_bytes(b"data")
        (out / "secret").chmod(0o000)
        (out / "closed").chmod(0o555)
        out.chmod(0o555)
        command = [sys.executable, "-c", script, name]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        out.chmod(0o755)
        (out / "closed").chmod(0o755)
        (out / "secret").chmod(0o755)
    mend = "Check the folder's rights, or choose another with out=FOLDER."
    assert ran.stdout.splitlines() == [
        f"OUT/closed/part cannot be written: Permission denied.|{mend}",
        f"OUT/secret cannot be read: Permission denied.|{mend}",
        f"OUT/secret/part cannot be read: Permission denied.|{mend}",
        f"OUT cannot be written: Permission denied.|{mend}",
    ], ran.stderr


def test_what_cannot_be_read_is_an_error_of_the_system_too(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="Is a directory") as caught:
        LocalStore(tmp_path).read_bytes("folder")
    assert isinstance(caught.value, Unreadable)
    assert isinstance(caught.value, RunFailed)


def test_a_file_that_outgrows_its_limit_leaves_nothing(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from lmmsteer.errors import RunFailed
from lmmsteer.store import LocalStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    LocalStore(Path(sys.argv[1])).create("part", bytes(100_000))
except RunFailed as error:
    print(error.what)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert ran.stdout == f"{tmp_path}/part cannot be written: File too large.\n"
    assert os.listdir(tmp_path) == []
