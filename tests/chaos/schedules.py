"""From a seed to a schedule, and what came of it."""

from __future__ import annotations

import shutil
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.chaos import command, disks, faults
from tests.chaos.check import Violation
from tests.chaos.cluster import Cluster
from tests.chaos.faults import Kind
from tests.chaos.scene import Scene

# How often each kind comes. Those that cost a cluster, or import torch, come less often.
LIGHT: Mapping[Kind, int] = {
    faults.workers_killed: 6,
    faults.driver_killed: 6,
    faults.raylet_killed: 4,
    faults.control_killed: 2,
    faults.head_killed: 2,
    faults.own_ray_killed: 2,
    faults.worker_stopped: 4,
    faults.node_stopped: 3,
    faults.driver_stopped: 4,
    faults.orphan_wakes: 4,
    faults.drivers_together: 6,
    faults.terminated: 6,
    faults.nodes_come_and_go: 3,
    faults.straggler: 3,
    faults.poison: 6,
    faults.hanging: 2,
    faults.poison_and_killers: 3,
    faults.model_fails: 3,
    faults.shard_fails: 3,
    faults.storm: 6,
}
DISKS: Mapping[Kind, int] = {disks.full_disk: 4, disks.read_only: 3, disks.moved_away: 3}
KINDS = {kind.__name__: kind for kind in (*LIGHT, *DISKS, *command.KINDS)}
COMMAND_EVERY = 10


@dataclass(frozen=True)
class Outcome:
    """What came of a schedule: `wrong` is empty where every promise was kept."""

    seed: int
    kind: str
    seconds: float
    wrong: str = ""
    done: list[str] = field(default_factory=list)


def kind_of(seed: int, mounts: bool = True) -> str:
    """Every tenth schedule goes through the real command line."""
    rng = Random(f"kind {seed}")
    if seed % COMMAND_EVERY == COMMAND_EVERY - 1:
        return rng.choice(command.KINDS).__name__
    weights = {**LIGHT, **(DISKS if mounts else {})}
    return rng.choices(list(weights), list(weights.values()))[0].__name__


@dataclass
class Stage:
    """What schedules share: a cluster, and the runs that nobody disturbed."""

    folder: Path
    cluster: Cluster

    def run(self, seed: int, kind: str) -> Outcome:
        """One schedule from its seed to the comparison."""
        start = time.monotonic()
        place = Path(tempfile.mkdtemp(prefix=f"{kind}-{seed}-", dir=self.folder))
        scene = Scene(seed, place, self._undisturbed(kind), self.cluster)
        wrong = ""
        try:
            self.cluster.mend(Random(f"nodes {seed}").randint(1, 3))
            KINDS[kind](scene)
            if not scene.over:
                scene.finish()
        except Violation as violation:
            wrong = str(violation)
        except Exception:
            wrong = f"the test itself failed: {traceback.format_exc()}"
        finally:
            scene.close()
        if not wrong:
            shutil.rmtree(place, ignore_errors=True)
        return Outcome(seed, kind, round(time.monotonic() - start, 1), wrong, scene.done)

    def _undisturbed(self, kind: str) -> Path:
        """Made once, by one worker that nobody hits."""
        real = kind.startswith("command")
        folder = self.folder / ("command" if real else "light")
        if not folder.exists():
            folder.mkdir(parents=True)
            command.make_undisturbed(folder) if real else self._make_light(folder)
        return folder / "out"

    def _make_light(self, folder: Path) -> None:
        from tests.chaos import world

        self.cluster.mend(1)
        world.build(folder / "source")
        (folder / "out").mkdir()
        scene = Scene(0, folder, folder / "source", self.cluster)
        scene.prepare(pause=0.001)
        if scene.drive(1).end() != 0:
            raise RuntimeError(f"the undisturbed run failed: {scene.drives[0].said()}")
