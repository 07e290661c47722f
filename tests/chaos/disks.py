"""Storage that gives way under a run: full, read-only, moved away. Needs the right to mount."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos import check
from tests.chaos.check import Violation
from tests.chaos.scene import Scene


def full_disk(scene: Scene) -> None:
    """F10: the disk is full somewhere in the run; nothing is half there; with space it goes on."""
    size = 220 + scene.rng.randint(0, 180)
    with _mounted(scene, "-t", "tmpfs", "-o", f"size={size}k", "tmpfs"):
        scene.prepare()
        drive = scene.drive()
        code = scene.ended(drive)
        scene.note(f"{size} KiB: {scene.parts()} parts fit")
        if code == 1 and "space" not in drive.said():
            raise Violation(f"the disk was full, and nobody said so: {drive.said()[-800:]}")
        _nothing_torn(scene)
        _mount(scene.out, "-o", "remount,size=16m")
        scene.finish()


def read_only(scene: Scene) -> None:
    """F12: the folder becomes read-only under the run."""
    scene.prepare(pause=0.05)
    with _mounted(scene, "--bind", str(scene.out)):
        drive = scene.drive()
        scene.a_moment(1.0)
        if _remounted(scene.out, "ro"):
            scene.note("read-only")
            if scene.ended(drive) == 1 and "Read-only file system" not in drive.said():
                raise Violation(f"read-only, and nobody said so: {drive.said()[-800:]}")
            _nothing_torn(scene)
            _remounted(scene.out, "rw")
        scene.finish()


def moved_away(scene: Scene) -> None:
    """F12: the responses are moved away under the run, and brought back."""
    scene.prepare(pause=0.05)
    drive = scene.drive()
    scene.a_moment(1.0)
    there, aside = scene.out / "responses", scene.folder / "aside"
    if there.is_dir():
        there.rename(aside)
        scene.note("responses moved away")
        scene.ended(drive)
        _bring_back(aside, there)  # Some parts are made twice, and rightly: the first were gone.
        for path in (scene.out / "logs").glob("*"):
            path.rename(scene.folder / path.name)


def _bring_back(aside: Path, there: Path) -> None:
    for path in aside.rglob("*"):
        target = there / path.relative_to(aside)
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    shutil.rmtree(aside)


def _nothing_torn(scene: Scene) -> None:
    found, whole = check.parts(scene.out), check.parts(scene.undisturbed)
    torn = [name for name, value in found.items() if whole.get(name) != value]
    if torn:
        raise Violation(f"half a part is visible: {torn}")


def may_mount(folder: Path) -> bool:
    """Whether this process has the right to; otherwise these kinds are left out, and it is said."""
    try:
        with _mounted_at(folder / "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
            return True
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False


@contextmanager
def _mounted(scene: Scene, *what: str) -> Iterator[None]:
    with _mounted_at(scene.out, *what):
        yield
        scene.over = True


@contextmanager
def _mounted_at(place: Path, *what: str) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    _mount(place, *what)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True, capture_output=True)


def _mount(place: Path, *what: str) -> None:
    subprocess.run(["mount", *what, str(place)], check=True, capture_output=True)


def _remounted(place: Path, how: str) -> bool:
    """Tried until nobody has a file open for writing."""
    for _ in range(200):
        try:
            _mount(place, "-o", f"remount,{how},bind")
            return True
        except subprocess.CalledProcessError:
            time.sleep(0.02)
    return False
