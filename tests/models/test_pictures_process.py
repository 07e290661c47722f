"""Decoding processes that die, hang, fill their memory or lie; and what they may reach."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lmmsteer.errors import PictureError, RunFailed
from lmmsteer.models import picture_child, picture_pool
from lmmsteer.models.picture_child import Limits
from lmmsteer.models.picture_pool import Decoders
from tests.models.deadly_process import LIES
from tests.models.hostile import cat, ordinary, saved
from tests.models.test_pictures_hostile import refused, resident

PICTURE = ordinary()["png"]
Make = Callable[..., Decoders]


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Decoders whose processes can be made to misbehave by what a file says."""
    monkeypatch.setattr(picture_child, "MODULE", "tests.models.deadly_process")
    made: list[Decoders] = []

    def make(seconds: float = 60.0, memory: int = 1 << 30, processes: int = 1) -> Decoders:
        made.append(Decoders(Limits(seconds, memory), processes))
        return made[-1]

    yield make
    for decoders in made:
        decoders.close()


def children() -> dict[int, str]:
    """The state (R, S, Z ...) of each decoding process of this one, by its pid."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if int(parent) == os.getpid() and (state == "Z" or "process\0" in command):
            found[int(folder.name)] = state
    return found


def wait_for(true: Callable[[], object]) -> None:
    for _ in range(6000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to be")


def is_shown(decoders: Decoders, data: bytes = PICTURE) -> bool:
    return bool(decoders.submit(data).result().tobytes() == cat().tobytes())


def test_a_picture_that_kills_its_process_takes_nobody_along(deadly: Make) -> None:
    decoders = deadly(processes=2)
    files = [PICTURE, b"DIE", PICTURE, PICTURE, b"DIE", b"no picture", PICTURE]
    outcomes = []
    for future in [decoders.submit(data) for data in files]:
        error = future.exception()
        outcomes.append((error.kind, str(error)) if isinstance(error, PictureError) else None)
    dead = ("picture_decoder_died", "the process that decodes it dies of it")
    assert [outcomes[at] for at in (1, 4)] == [dead, dead]
    assert [outcomes[at] for at in (0, 2, 3, 6)] == [None] * 4
    assert outcomes[5] is not None
    assert outcomes[5][0] == "picture_broken"


def test_a_process_that_was_killed_from_outside_is_not_the_pictures_fault(
    deadly: Make, tmp_path: Path
) -> None:
    decoders = deadly()
    assert refused(decoders, b"ONCE %s" % str(tmp_path / "mark").encode())[0] == "picture_broken"
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_killed_or_stopped_while_it_decodes_is_replaced(
    number: signal.Signals, deadly: Make
) -> None:
    decoders = deadly(seconds=3.0)
    assert is_shown(decoders)
    (child,) = children()
    os.kill(child, signal.SIGSTOP)  # So that the picture is surely under way.
    coming = decoders.submit(PICTURE)
    if number == signal.SIGKILL:
        os.kill(child, number)
    assert coming.result().tobytes() == cat().tobytes()
    (other,) = children()
    assert other != child


@pytest.mark.parametrize("word", [b"SLEEP", b"SPIN"])
def test_a_picture_that_never_ends_is_given_up_at_its_deadline(word: bytes, deadly: Make) -> None:
    decoders = deadly(seconds=2.0)
    hanging, behind = decoders.submit(word), decoders.submit(PICTURE)
    with pytest.raises(PictureError) as caught:
        hanging.result()
    assert (caught.value.kind, str(caught.value)) == (
        "picture_timeout",
        "not decoded within 2 seconds",
    )
    assert behind.result().tobytes() == cat().tobytes()


def test_a_file_that_is_not_taken_in_hits_the_deadline_too(deadly: Make) -> None:
    decoders = deadly(seconds=2.0)
    assert is_shown(decoders)
    for child in children():
        os.kill(child, signal.SIGSTOP)
    large = PICTURE + bytes(1 << 20)  # More than a pipe holds.
    assert is_shown(decoders, large)


def test_a_picture_that_fills_its_memory_is_refused_and_ours_stays_flat(deadly: Make) -> None:
    decoders = deadly(memory=300 << 20)
    assert is_shown(decoders)
    before = resident()
    reason = "decoding it takes more than 300 MiB of memory"
    assert refused(decoders, b"FILL") == ("picture_decoder_died", reason)
    large = saved(Image.new("LA", (5000, 4000), (5, 128)), "PNG")
    assert refused(decoders, large) == ("picture_decoder_died", reason)
    assert refused(decoders, bytes(320 << 20))[0] == "picture_decoder_died"
    assert is_shown(decoders)
    assert resident() - before < 64 << 20


def test_a_process_that_has_grown_is_replaced(deadly: Make) -> None:
    decoders = deadly(memory=400 << 20)
    assert is_shown(decoders)
    (child,) = children()
    assert is_shown(decoders)
    assert list(children()) == [child]
    large = np.asarray(decoders.submit(saved(Image.new("L", (5000, 4000), 9), "PNG")).result())
    assert large.shape == (4000, 5000, 3)
    assert not children()


@pytest.mark.parametrize("lie", LIES)
def test_a_process_that_a_picture_has_taken_over_is_not_believed(lie: bytes, deadly: Make) -> None:
    decoders = deadly(seconds=2.0)
    late = lie == b"LIE short"  # The rest never comes.
    kind = "picture_timeout" if late else "picture_decoder_died"
    assert refused(decoders, lie)[0] == kind
    assert is_shown(decoders)


def test_no_process_is_left_behind(deadly: Make) -> None:
    decoders = deadly(seconds=1.0, processes=2)
    for future in [decoders.submit(data) for data in (b"DIE", PICTURE, b"SLEEP", b"x", PICTURE)]:
        future.exception()
    assert "Z" not in children().values()
    decoders.close()
    assert children() == {}


def test_closing_does_not_wait_for_a_picture_that_never_ends(deadly: Make) -> None:
    decoders = deadly()
    futures = [decoders.submit(b"SLEEP") for _ in range(3)]
    wait_for(children)
    decoders.close()
    assert isinstance(futures[0].exception(), PictureError | RunFailed)
    assert isinstance(decoders.submit(PICTURE).exception(), RunFailed)
    assert futures[2].cancelled()
    assert children() == {}


def test_a_process_ends_with_its_parent_even_while_it_decodes() -> None:
    script = (
        "import sys, time\n"
        "from lmmsteer.models import picture_child, picture_pool\n"
        "picture_child.MODULE = 'tests.models.deadly_process'\n"
        "decoders = picture_pool.Decoders(processes=2)\n"
        "for word in (b'SPIN', b'SLEEP'): decoders.submit(word)\n"
        "while len(decoders._children) < 2: time.sleep(0.01)\n"
        "print(*(child._process.pid for child in decoders._children), flush=True)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    wait_for(lambda: not any(_runs(pid) for pid in pids))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_sees_no_secret_and_no_other_file_and_has_its_limits(
    deadly: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    left, right = os.pipe()
    os.set_inheritable(right, True)
    try:
        decoders = deadly()
        assert is_shown(decoders)
        (child,) = children()
        proc = Path(f"/proc/{child}")
        environment = (proc / "environ").read_bytes()
        assert b"secret" not in environment
        assert b"RAY_" not in environment
        opened = [os.readlink(link) for link in (proc / "fd").iterdir()]
        assert sorted(link.partition(":")[0] for link in opened) == ["/dev/null"] * 3 + ["pipe"] * 2
        assert "torch" not in (proc / "maps").read_text()
        limits = {line[:26].strip(): line[26:].split()[0] for line in _lines(proc / "limits")}
        assert limits["Max address space"] == str(1 << 30)
        assert limits["Max core file size"] == limits["Max file size"] == "0"
        assert int(limits["Max open files"]) <= 64
        assert (proc / "oom_score_adj").read_text() == "1000\n"
        assert int(limits["Max cpu time"]) <= 64
    finally:
        os.close(left)
        os.close(right)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_signals_to_the_whole_group_leave_a_process_alone(deadly: Make) -> None:
    decoders = deadly()
    assert is_shown(decoders)
    (child,) = children()
    assert os.getpgid(child) != os.getpgid(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(child, number)
    assert is_shown(decoders)
    assert list(children()) == [child]


def test_a_process_that_does_not_start_is_the_runs_failure_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(picture_child, "MODULE", "lmmsteer.models.no_such_module")
    with closing(Decoders()) as decoders, pytest.raises(RunFailed, match="no_such_module"):
        decoders.submit(PICTURE).result()


def test_all_of_a_process_share_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_pool, "_shared", [])
    found: list[Decoders] = []
    threads = [
        threading.Thread(target=lambda: found.append(picture_pool.shared_decoders()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    found[0].close()
