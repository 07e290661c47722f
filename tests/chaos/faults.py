"""What is done to a run: each kind of schedule a function of its scene.

A kind breaks things and checks what is special about it; that everything is complete afterwards,
made once and the same byte for byte is checked after all of them (Scene.finish).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import pyarrow.parquet as pq

from tests.chaos import check, world
from tests.chaos.check import Violation
from tests.chaos.cluster import alive, children, command_of, processes, signal_to
from tests.chaos.scene import Drive, Scene

AGAIN = "The same command again"
Kind = Callable[[Scene], None]


def workers_killed(scene: Scene) -> None:
    """F1, F2, F23: kill -9 of one to four workers; the driver replaces them and ends well."""
    scene.prepare(late=scene.rng.choice((0.0, 0.05)))
    drive = scene.drive()
    for _ in range(scene.rng.randint(1, 4)):
        scene.a_moment()
        scene.hit()
    scene.ended(drive, 0)
    check.deaths_are_bounded(scene.out, {}, scene.kills)


def driver_killed(scene: Scene) -> None:
    """F3: kill -9 of the driver, once to three times, and another number of workers each time."""
    scene.prepare()
    for _ in range(scene.rng.randint(1, 3)):
        drive = scene.drive()
        _sometime(scene)
        if scene.rng.random() < 0.3:
            scene.hit()
        _kill(scene, drive)


def raylet_killed(scene: Scene) -> None:
    """F4: a node goes down under its workers: the others go on, and nothing is blamed for it."""
    scene.prepare()
    drive = scene.drive(scene.rng.choice((3, 7)))
    scene.a_moment()
    signal_to(scene.cluster.raylet(scene.rng.choice(scene.cluster.nodes)), SIGKILL)
    scene.note("SIGKILL to a node's raylet")
    if scene.rng.random() < 0.5:
        scene.a_moment()
        scene.cluster.add()
        scene.note("a new node")
    scene.ended(drive, 0)
    _causes(scene, {"node", "died"})


def control_killed(scene: Scene) -> None:
    """F4: the control store goes; the driver says so, and a new one on a new cluster goes on."""
    scene.prepare(pause=scene.rng.choice((0.05, 0.3)))
    drive = scene.drive(scene.rng.choice((1, 2, 3)))
    scene.a_moment()
    signal_to(scene.cluster.control, SIGKILL)
    scene.note("SIGKILL to the control store")
    if scene.rng.random() < 0.5:
        scene.hit()
    if scene.ended(drive, seconds=75) == 1:
        _says(drive, AGAIN)
    scene.cluster.mend(1)


def head_killed(scene: Scene) -> None:
    """F4: the raylet that the driver works through, or its whole node."""
    scene.prepare(pause=0.1)
    drive = scene.drive(scene.rng.choice((1, 2, 3)))
    scene.a_moment()
    victims = [scene.cluster.head]
    if scene.rng.random() < 0.5:
        victims.append(scene.cluster.control)
    for victim in victims:
        signal_to(victim, SIGKILL)
    scene.note(f"SIGKILL to {len(victims)} processes of the head")
    if scene.ended(drive, seconds=75) == 1:
        _says(drive, AGAIN)
    scene.cluster.mend(1)


def own_ray_killed(scene: Scene) -> None:
    """F4: the same on the Ray that a driver starts for itself, where there is no cluster."""
    scene.prepare(pause=0.1)
    drive = scene.drive(scene.rng.choice((1, 2)), own=True)
    scene.a_moment()
    name = scene.rng.choice(("raylet/raylet", "gcs/gcs_server"))
    for pid in children(drive.process.pid):
        if name in command_of(pid):
            signal_to(pid, SIGKILL)
            scene.note(f"SIGKILL to {name}")
    if scene.ended(drive, seconds=75) == 1:
        _says(drive, AGAIN)


def worker_stopped(scene: Scene) -> None:
    """F5: SIGSTOP of a worker for longer than the deadline: it is ended, and replaced."""
    scene.prepare(pause=0.05)
    drive = scene.drive(scene.rng.choice((1, 2, 3)), deadline=4)
    scene.a_moment(1.0)
    pid = scene.hit(SIGSTOP)
    scene.ended(drive, 0)
    if pid is not None:
        _is_gone(pid)


def node_stopped(scene: Scene) -> None:
    """F5: a whole node sleeps until all is done without it, then wakes up and finishes its shards:
    their names are taken, and not a byte changes.
    """
    scene.prepare(pause=0.05, late=0.2)
    drive = scene.drive(7)
    scene.a_moment(1.0)
    node = scene.rng.choice(scene.cluster.nodes)
    asleep = processes(node)
    for pid in asleep:
        signal_to(pid, SIGSTOP)
    scene.note(f"SIGSTOP to a node and its {len(asleep) - 1} processes")
    scene.ended(drive, 0)
    scene.compare()
    for pid in asleep:
        signal_to(pid, SIGCONT)
    scene.note("SIGCONT")
    time.sleep(scene.rng.uniform(1, 3))
    scene.compare()


def driver_stopped(scene: Scene) -> None:
    """F7: driver A sleeps, B takes over, A wakes up: it finds the parts and ends well."""
    scene.prepare(pause=0.04)
    first = scene.drive(scene.rng.choice((1, 2)))
    scene.a_moment(1.0)
    first.signal(SIGSTOP)
    scene.note("SIGSTOP to the driver")
    scene.ended(scene.drive(scene.rng.choice((1, 2))), 0)
    scene.compare()
    first.signal(SIGCONT)
    scene.note("SIGCONT")
    scene.ended(first, 0)


def orphan_wakes(scene: Scene) -> None:
    """F5: worker asleep, its driver dead, the work done by others; then it wakes up."""
    scene.prepare(pause=0.05)
    drive = scene.drive(scene.rng.choice((2, 3)))
    scene.a_moment(1.0)
    pid = scene.hit(SIGSTOP)
    _kill(scene, drive)
    scene.ended(scene.drive(), 0)
    if pid is not None:
        signal_to(pid, SIGCONT)
        scene.note("SIGCONT")
        time.sleep(scene.rng.uniform(0.5, 2))
    scene.compare()


def drivers_together(scene: Scene) -> None:
    """F6: two to four drivers on one folder, one of which may be killed."""
    scene.prepare()
    drives = []
    for _ in range(scene.rng.randint(2, 4)):
        drives.append(scene.drive(scene.rng.choice((1, 2))))
        time.sleep(scene.rng.choice((0, 0, 0.5, 2)))
    if scene.rng.random() < 0.4:
        scene.a_moment()
        _kill(scene, scene.rng.choice(drives))
    for drive in drives:
        scene.ended(drive, None if drive.killed else 0)


def terminated(scene: Scene) -> None:
    """F36: SIGTERM or Ctrl-C, once or twice, at any moment: out in 30 s, and says how to go on."""
    scene.prepare(pause=scene.rng.choice((0.02, 0.3)))
    drain = scene.rng.choice((2, 15))
    drive = scene.drive(drain=drain)
    which = scene.rng.choice((SIGTERM, SIGINT))
    _sometime(scene)
    drive.signal(which)
    twice = scene.rng.random() < 0.5
    scene.note(f"{which.name}{' twice' if twice else ''}, drain {drain}")
    if twice:
        time.sleep(scene.rng.uniform(0.2, 1.5))
        if drive.running:
            drive.signal(which)
    code = scene.ended(drive, seconds=30)
    if code == 1:
        _says(drive, AGAIN)


def nodes_come_and_go(scene: Scene) -> None:
    """F38: the cluster grows and shrinks under a run that takes what there is."""
    scene.prepare(pause=0.05)
    drive = scene.drive(None)
    for _ in range(scene.rng.randint(2, 4)):
        scene.a_moment(1.5)
        nodes = scene.cluster.nodes
        if len(nodes) < 3 and (not nodes or scene.rng.random() < 0.5):
            scene.cluster.add()
            scene.note("a node joins")
        else:
            scene.cluster.remove(scene.rng.choice(nodes))
            scene.note("a node leaves")
    scene.ended(drive, 0)


def straggler(scene: Scene) -> None:
    """F37: one worker is twenty times slower; whoever finishes a shard first, it is one part."""
    scene.prepare(pause=0.03, straggler=20)
    drive = scene.drive(scene.rng.choice((2, 3)))
    scene.ended(drive, 0)


def poison(scene: Scene) -> None:
    """F26, F23: rows that end the process that answers them, at any place of a shard."""
    scene.prepare()
    poisoned = _poison(scene, scene.rng.randint(1, 3), ("exit", "segv", "kill"))
    drive = scene.drive(scene.rng.choice((1, 2, 3)))
    scene.ended(drive, 0)
    check.deaths_are_bounded(scene.out, poisoned, 0)


def hanging(scene: Scene) -> None:
    """F27: a row that never ends is found by its missing progress, and answered by nobody."""
    scene.prepare()
    poisoned = _poison(scene, 1, ("hang",))
    drive = scene.drive(scene.rng.choice((2, 3)), deadline=4)
    scene.ended(drive, 0)
    check.deaths_are_bounded(scene.out, poisoned, 0)


def poison_and_killers(scene: Scene) -> None:
    """F26 with F1: poisoned rows while workers and the driver are killed as well."""
    scene.prepare()
    _poison(scene, scene.rng.randint(1, 2), ("exit", "segv"))
    drive = scene.drive(scene.rng.choice((2, 3)))
    scene.a_moment()
    scene.hit()
    if scene.rng.random() < 0.5:
        scene.a_moment()
        _kill(scene, drive)


def model_fails(scene: Scene) -> None:
    """F39: a model that cannot be loaded: the other's cells are done, and it is named."""
    scene.prepare(load={"small": scene.rng.choice(("error", "exit"))})
    drive = scene.drive()
    scene.ended(drive, 1)
    _says(drive, "small")
    _only_the_rest(scene, "model=large", 2 * world.PICTURES // world.SHARD, load={})


def shard_fails(scene: Scene) -> None:
    """F39: one shard of a cell raises: the others are done, it is named, the rerun does only it."""
    number = scene.rng.randrange(world.PICTURES // world.SHARD)
    part = f"part-{number:05d}.parquet"
    folder = scene.rng.choice(world.folders())
    scene.prepare(fail=[f"{folder}/{part}"])
    drive = scene.drive()
    scene.ended(drive, 1)
    _says(drive, part)
    _only_the_rest(scene, "", world.SHARDS - 1, fail=[])


def storm(scene: Scene) -> None:
    """Anything, in any order."""
    scene.prepare(pause=0.03)
    scene.options = {"deadline": 4}
    drives = [scene.drive(scene.rng.choice((2, 3)))]
    for _ in range(scene.rng.randint(3, 7)):
        scene.a_moment(1.0)
        if not any(drive.running for drive in drives):
            drives.append(scene.drive(scene.rng.choice((1, 2, 3))))
        what = scene.rng.choice(("kill", "kill", "stop", "driver", "second", "node", "term"))
        if what in ("kill", "stop"):
            scene.hit(SIGKILL if what == "kill" else SIGSTOP)
        elif what == "second" and len(drives) < 4:
            drives.append(scene.drive(scene.rng.choice((1, 2))))
        elif what == "node" and scene.cluster.nodes:
            signal_to(scene.cluster.raylet(scene.rng.choice(scene.cluster.nodes)), SIGKILL)
            scene.note("SIGKILL to a node's raylet")
            scene.cluster.add()
        elif what in ("driver", "term"):
            drive = scene.rng.choice(drives)
            if drive.running:
                drive.signal(SIGKILL if what == "driver" else SIGTERM)
                scene.note(f"{what}: a driver is ended")
    for drive in drives:
        scene.ended(drive)


# What kinds have in common


def _sometime(scene: Scene) -> None:
    """While it starts, or while it answers."""
    if scene.rng.random() < 0.3:
        time.sleep(scene.rng.uniform(0.5, 6))
    else:
        scene.a_moment()


def _kill(scene: Scene, drive: Drive) -> None:
    drive.signal(SIGKILL)
    drive.end()
    scene.note(f"SIGKILL to a driver, {scene.parts()} parts there")


def _is_gone(pid: int) -> None:
    """A stopped process hears nobody: who ended it must have killed it."""
    end = time.monotonic() + 20
    while alive(pid):
        if time.monotonic() > end:
            signal_to(pid, SIGCONT)
            raise Violation("a stopped worker outlived its run")
        time.sleep(0.05)


def _says(drive: Drive, words: str) -> None:
    if words not in drive.said():
        raise Violation(f"nobody was told {words!r}: {drive.said()[-800:]}")


def _causes(scene: Scene, allowed: set[str]) -> None:
    causes = Counter(event["cause"] for event in check.events(scene.out, "death"))
    if causes.keys() - allowed:
        raise Violation(f"deaths with causes {dict(causes)}")


def _poison(scene: Scene, rows: int, how: tuple[str, ...]) -> dict[tuple[str, str], int]:
    """Some rows, often of one shard, hurt whoever answers them; how many, by cell and part."""
    folder = scene.rng.choice(world.folders())
    numbers = [scene.rng.randrange(world.PICTURES // world.SHARD) for _ in range(rows)]
    if scene.rng.random() < 0.6:
        numbers = numbers[:1] * rows
    chosen: dict[str, str] = {}
    poisoned: Counter[tuple[str, str]] = Counter()
    for number in numbers:
        part = f"part-{number:05d}.parquet"
        table = pq.read_table(scene.out / f"manifest/dataset={world.DATASET}/rows/{part}")
        row = scene.rng.choice(table.column("row_id").to_pylist())
        if row in chosen:
            continue
        chosen[row] = scene.rng.choice(how)
        kind = "row_hung" if chosen[row] == "hang" else "worker_died"
        scene.poison[(folder, row)] = kind
        poisoned[(world.label(folder), part)] += 1
    scene.rule(rows={f"{folder} {row}": what for row, what in chosen.items()})
    scene.note(f"poison in {folder}: {chosen}")
    return dict(poisoned)


def _only_the_rest(scene: Scene, name: str, there: int, **mended: Any) -> None:
    """All but what failed is there; once mended, the same command does only what is missing."""
    found = [part for part in check.parts(scene.out) if name in part]
    if len(found) != there or scene.parts() != there:
        raise Violation(f"{scene.parts()} parts, {len(found)} of them good, not {there}")
    before = len(check.events(scene.out, "done"))
    scene.rule(**mended)
    scene.ended(scene.drive(), 0)
    redone = [e for e in check.events(scene.out, "done")[before:] if e["created"]]
    if len(redone) != world.SHARDS - there:
        raise Violation(f"{len(redone)} shards done where {world.SHARDS - there} were missing")
