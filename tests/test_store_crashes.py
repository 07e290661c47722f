"""A machine that dies, and a disk that refuses, at every operation of every way to write."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from lmmsteer.errors import RunFailed
from lmmsteer.store import LocalStore
from tests.memory_disk import Died, MemoryDisk

ROOT = Path("/runs/demo")
OLD, NEW = b"old" * 1000, b"new" * 1000
LINKS = ()
NO_LINKS = ("link",)
NEITHER = ("link", "rename_new")

Act = Callable[[LocalStore], object]
States = list[dict[str, bytes]]

CREATE = (
    lambda store: None,
    lambda store: store.create("cells/a/part", NEW),
    [{}, {"cells/a/part": NEW}],
)
REPLACE = (
    lambda store: store.write_bytes("scores/x", OLD),
    lambda store: store.write_bytes("scores/x", NEW),
    [{"scores/x": OLD}, {"scores/x": NEW}],
)
MOVE = (
    lambda store: store.create("cells/a/part", OLD),
    lambda store: store.move("cells/a/part", "trash/1/cells/a/part"),
    [
        {"cells/a/part": OLD},
        {"cells/a/part": OLD, "trash/1/cells/a/part": OLD},
        {"trash/1/cells/a/part": OLD},
    ],
)
WAYS = pytest.mark.parametrize(
    ("before", "act", "states"), [CREATE, REPLACE, MOVE], ids=["create", "write_bytes", "move"]
)
SYSTEMS = pytest.mark.parametrize(
    "without", [LINKS, NO_LINKS, NEITHER], ids=["links", "renames", "neither"]
)


def prepared(without: tuple[str, ...], before: Act) -> MemoryDisk:
    """A disk on which what came before is safe, and a new process begins."""
    disk = MemoryDisk(without)
    before(LocalStore(ROOT, disk))
    disk.restart()
    return disk


def operations(without: tuple[str, ...], before: Act, act: Act) -> int:
    disk = prepared(without, before)
    act(LocalStore(ROOT, disk))
    return len(disk.done)


def visible(disk: MemoryDisk) -> dict[str, bytes]:
    store = LocalStore(ROOT, disk)
    return {path: store.read_bytes(path) for path in store.list()}


def attempt(disk: MemoryDisk, act: Act, dies_at: int) -> bool:
    """Whether the act came to its end before the process died."""
    disk.dies_at = dies_at
    try:
        act(LocalStore(ROOT, disk))
    except Died:
        return False
    return True


def refusal(store: LocalStore, act: Act) -> RunFailed | None:
    try:
        act(store)
    except RunFailed as error:
        return error
    return None


@WAYS
@SYSTEMS
@pytest.mark.parametrize("end", ["killed", "power, names lost", "power, names kept"])
def test_wherever_it_dies_the_old_or_the_new_state_is_there_and_again_is_enough(
    before: Act, act: Act, states: States, without: tuple[str, ...], end: str
) -> None:
    for point in range(operations(without, before, act)):
        disk = prepared(without, before)
        assert not attempt(disk, act, point)
        disk.restart()
        if end != "killed":
            disk.lose_power(names_survive=end == "power, names kept")
        assert visible(disk) in states, f"died at {point}"
        act(LocalStore(ROOT, disk))
        disk.lose_power(names_survive=False)
        assert visible(disk) == states[-1], f"died at {point}, then again"


@WAYS
@SYSTEMS
def test_what_has_returned_outlives_the_machine(
    before: Act, act: Act, states: States, without: tuple[str, ...]
) -> None:
    disk = prepared(without, before)
    act(LocalStore(ROOT, disk))
    disk.lose_power(names_survive=False)
    assert visible(disk) == states[-1]


@WAYS
def test_two_that_die_at_any_two_points_leave_a_third_enough(
    before: Act, act: Act, states: States
) -> None:
    most = operations(LINKS, before, act) + 1
    for first, second in itertools.product(range(most), repeat=2):
        disk = prepared(LINKS, before)
        attempt(disk, act, first)
        disk.restart()
        attempt(disk, act, second)
        disk.restart()
        assert visible(disk) in states
        act(LocalStore(ROOT, disk))
        disk.lose_power(names_survive=False)
        assert visible(disk) == states[-1], f"died at {first} and {second}"


@WAYS
@SYSTEMS
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_refused_operation_shows_nothing_half_and_is_said_in_one_sentence(
    before: Act, act: Act, states: States, without: tuple[str, ...], number: int
) -> None:
    for point in range(operations(without, before, act)):
        disk = prepared(without, before)
        disk.refuses = {point: number}
        said = refusal(LocalStore(ROOT, disk), act)
        assert said is None or ("/runs/demo" in said.what and said.mend)
        assert visible(disk) in states, f"refused at {point}"
        disk.restart()
        act(LocalStore(ROOT, disk))
        disk.lose_power(names_survive=False)
        assert visible(disk) == states[-1], f"refused at {point}, then again"


def test_a_full_disk_names_the_place_and_the_way_on() -> None:
    disk = prepared(LINKS, lambda store: store.create("a/x", OLD))
    disk.refuses = dict.fromkeys(range(100), errno.ENOSPC)
    with pytest.raises(RunFailed, match="/runs/demo/a/part cannot be written: No space") as caught:
        LocalStore(ROOT, disk).create("a/part", NEW)
    assert "Free some space" in caught.value.mend


def test_a_file_whose_fsync_failed_is_never_believed_again() -> None:
    disk = MemoryDisk()
    store = LocalStore(ROOT, disk)
    store.create("a/first", OLD)
    disk.done.clear()
    store.create("a/second", OLD)
    sync = disk.done.index("sync")
    disk.done.clear()
    disk.refuses = {sync: errno.EIO}
    with pytest.raises(RunFailed, match="Input/output error"):
        store.create("a/part", NEW)
    disk.restart()
    assert store.create("a/part", NEW)
    disk.lose_power(names_survive=False)
    assert visible(disk)["a/part"] == NEW


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (LINKS, "hard link"),
        (NO_LINKS, "rename without replacing"),
        (
            NEITHER,
            "check, then rename (this file system has no exclusive creation:"
            " Operation not permitted)",
        ),
    ],
)
def test_the_store_says_how_it_commits(without: tuple[str, ...], said: str) -> None:
    store = LocalStore(ROOT, MemoryDisk(without))
    assert store.commit == said
    assert store.create("part", NEW)
    assert not store.create("part", OLD)
    assert visible(store.disk) == {"part": NEW}  # type: ignore[arg-type]


def test_a_file_system_that_cannot_sync_folders_is_used_and_said() -> None:
    class NoFolderSync(MemoryDisk):
        def sync_folder(self, path: Path) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    store = LocalStore(ROOT, NoFolderSync())
    assert store.create("part", NEW)
    assert store.commit == "hard link; folders cannot be synced here (Invalid argument)"


def test_a_link_that_was_made_and_answered_as_taken_is_ours() -> None:
    class AsksTwice(MemoryDisk):
        def link(self, source: Path, target: Path) -> None:
            super().link(source, target)
            raise OSError(errno.EEXIST, "File exists")

    store = LocalStore(ROOT, AsksTwice())
    assert store.create("part", NEW)
    assert store.read_bytes("part") == NEW


def test_leftovers_go_an_hour_after_by_the_clock_of_the_file_system() -> None:
    disk = MemoryDisk()
    store = LocalStore(ROOT, disk)
    store.create("a/part", OLD)
    for name in ("old", "young"):
        disk.clock += 1800
        disk.create(ROOT / "a" / f".{name}.{disk.unique()}.tmp")
    disk.clock += 1800  # an hour after the first, by the disk; no other clock is asked
    collected = LocalStore(ROOT, disk).collect()
    assert [path.split(".")[1] for path in collected] == ["old"]
    assert visible(disk) == {"a/part": OLD}
    disk.clock += 3600
    assert len(LocalStore(ROOT, disk).collect()) == 1
    assert not [p.name for p in disk.names if p.name.startswith(".")]


def test_collecting_makes_a_part_safe_whose_writer_was_killed_before_its_last_fsync() -> None:
    disk = prepared(LINKS, lambda store: store.create("a/x", OLD))
    link = len(disk.done)
    while "a/part" not in visible(disk):
        disk = prepared(LINKS, lambda store: store.create("a/x", OLD))
        link += 1
        attempt(disk, lambda store: store.create("a/part", NEW), link)
        disk.restart()
    LocalStore(ROOT, disk).collect()
    disk.lose_power(names_survive=False)
    assert visible(disk) == {"a/part": NEW, "a/x": OLD}


def test_a_stale_handle_is_asked_again_a_few_times_and_then_named() -> None:
    class Forgets(MemoryDisk):
        times = 0

        def read(self, path: Path) -> bytes:
            self.times -= 1
            if self.times >= 0:
                raise OSError(errno.ESTALE, "Stale file handle")
            return super().read(path)

    disk = Forgets()
    store = LocalStore(ROOT, disk)
    store.create("part", NEW)
    disk.times = 4
    assert store.read_bytes("part") == NEW
    assert disk.paused == [0.05, 0.1, 0.2, 0.4]
    disk.times = 5
    with pytest.raises(RunFailed, match="/runs/demo/part cannot be read: Stale file handle"):
        store.read_bytes("part")


def test_silly_renames_are_neither_listed_nor_collected_nor_an_error() -> None:
    disk = MemoryDisk()
    store = LocalStore(ROOT, disk)
    store.create("a/part", OLD)
    disk.create(ROOT / "a" / ".nfs000000000000000000000001")
    disk.clock += 10_000
    assert store.collect() == []
    assert store.list() == ["a/part"]


def test_a_line_that_was_cut_short_does_not_swallow_the_next() -> None:
    disk = MemoryDisk()
    store = LocalStore(ROOT, disk)
    store.append("logs/x", "first")
    disk.refuses = {disk.done.index("write") + len(disk.done) - disk.done.index("extend"): 28}
    with pytest.raises(RunFailed, match="No space left"):
        store.append("logs/x", "second")
    store.append("logs/x", "third")
    assert store.read_bytes("logs/x").split(b"\n")[0] == b"first"
    assert store.read_bytes("logs/x").split(b"\n")[-2:] == [b"third", b""]


def test_flushed_lines_outlive_the_machine() -> None:
    disk = MemoryDisk()
    store = LocalStore(ROOT, disk)
    store.append("logs/x", "first")
    store.flush()
    disk.lose_power(names_survive=False)
    assert visible(disk) == {"logs/x": b"first\n"}
