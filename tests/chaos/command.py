"""The same through the real command line: `python -m jobs generate`, a tiny LMM, torch and all."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

from tests.chaos import check
from tests.chaos.check import Violation
from tests.chaos.faults import AGAIN
from tests.chaos.scene import Drive, Scene

END_SECONDS = 300.0  # Each worker reads torch and transformers first.
CELLS = ("-m", "method=unsteered,random_direction")


def make_undisturbed(folder: Path) -> None:
    """The pictures, and a sweep of two cells by one worker that nobody disturbs."""
    from tests.fleet.runs import line, photos

    photos(folder / "photos")
    command = line("generate", folder / "photos", folder / "out", *CELLS, "cluster.workers=1")
    subprocess.run(command, check=True, capture_output=True)


def command_workers_killed(scene: Scene) -> None:
    """F1, F2: kill -9 of one or two workers; the command ends well by itself."""
    drive = _start(scene)
    for _ in range(scene.rng.randint(1, 2)):
        scene.until(scene.workers)
        time.sleep(scene.rng.uniform(0, 3))
        scene.hit()
    code = scene.ended(drive, seconds=END_SECONDS)
    if code != 0 and "ended while they loaded" not in drive.said():  # Twice: then it is the model.
        raise Violation(f"exit code {code}: {drive.said()[-800:]}")
    _finish(scene)


def command_driver_killed(scene: Scene) -> None:
    """F3: kill -9 of the command at any moment, then the same again, or `resume`."""
    for _ in range(scene.rng.randint(1, 2)):
        drive = _start(scene)
        _somewhere(scene)
        drive.signal(SIGKILL)
        drive.end()
        scene.note(f"SIGKILL to the command, {scene.parts()} parts there")
    _finish(scene)


def command_terminated(scene: Scene) -> None:
    """F36: SIGTERM or Ctrl-C, once or twice."""
    drive = _start(scene)
    scene.until(drive.said)  # Before that nothing is begun, and a signal ends it as any process.
    _somewhere(scene)
    which = scene.rng.choice((SIGTERM, SIGINT))
    for _ in range(scene.rng.randint(1, 2)):
        if drive.running:
            drive.signal(which)
        scene.note(which.name)
        time.sleep(scene.rng.uniform(0.2, 1.0))
    if scene.ended(drive, seconds=30) == 1 and AGAIN not in drive.said():
        raise Violation(f"nobody was told how to go on: {drive.said()[-800:]}")
    _finish(scene)


def commands_together(scene: Scene) -> None:
    """F6: two commands on one folder."""
    drives = [_start(scene) for _ in range(2)]
    if scene.rng.random() < 0.5:
        _somewhere(scene)
        drives[0].signal(SIGKILL)
        scene.note("SIGKILL to one of them")
    for drive in drives:
        scene.ended(drive, None if drive.killed else 0, END_SECONDS)
    _finish(scene)


def command_on_nodes(scene: Scene) -> None:
    """F4: on a cluster of several raylets, one of which goes down."""
    drive = _start(scene, f"cluster.address={scene.cluster.address}", workers=(3,))
    _somewhere(scene)
    node = scene.rng.choice(scene.cluster.nodes)
    scene.cluster.remove(node)
    scene.note("a node goes down")
    scene.ended(drive, 0, END_SECONDS)
    _finish(scene)


KINDS = (
    command_workers_killed,
    command_driver_killed,
    command_terminated,
    commands_together,
    command_on_nodes,
)


def _start(scene: Scene, *more: str, workers: Sequence[int] = (1, 2, 3)) -> Drive:
    from tests.fleet.runs import line

    given = (f"cluster.workers={scene.rng.choice(workers)}", "shard_images=1", *CELLS, *more)
    return _run(scene, line("generate", scene.undisturbed.parent / "photos", scene.out, *given))


def _run(scene: Scene, command: list[str]) -> Drive:
    screen = scene.folder / f"screen-{len(scene.drives)}"
    with screen.open("wb") as file:
        drive = Drive(subprocess.Popen(command, stdout=file, stderr=file), screen)
    scene.drives.append(drive)
    scene.note(" ".join(command[2:4] + [word for word in command if "workers" in word]))
    return drive


def _somewhere(scene: Scene) -> None:
    """At its start, or while it answers."""
    if scene.rng.random() < 0.25:
        time.sleep(scene.rng.uniform(1, 8))
    else:
        wanted = scene.rng.randint(1, 8)
        scene.until(lambda: scene.parts() >= wanted)


def _finish(scene: Scene) -> None:
    """The same command until all is there, or `resume` where a cell was begun."""
    from tests.fleet.runs import of

    for _ in range(4):
        begun = list((scene.out / "responses").rglob("_cell.json"))
        resumes = len(begun) == 2 and scene.rng.random() < 0.5
        drive = _run(scene, of("resume", scene.out)) if resumes else _start(scene)
        if scene.ended(drive, seconds=END_SECONDS) == 0:
            break
    else:
        raise Violation(f"still not complete: {scene.drives[-1].said()[-800:]}")
    scene.compare()
    check.leftovers(scene.out)
    scene.ended(_run(scene, of("status", scene.out)), 0)
    shutil.rmtree(scene.out)
    scene.over = True
