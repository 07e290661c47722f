"""The stage of one schedule: its folder, its drivers, and what may be done to them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos import check, world
from tests.chaos.check import Violation
from tests.chaos.cluster import Cluster, alive, command_of, signal_to

END_SECONDS = 240.0  # For a driver that has nothing to wait for but its work.
WORKERS = (1, 2, 3, 7)
LAST = world.SHARDS - 3


@dataclass(eq=False)
class Drive:
    """A driver's process."""

    process: subprocess.Popen[bytes]
    screen: Path
    killed: bool = False

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        return self.screen.read_text(errors="replace")

    def signal(self, which: signal.Signals) -> None:
        self.killed |= which == signal.SIGKILL
        self.process.send_signal(which)

    def end(self, seconds: float = END_SECONDS) -> int:
        """Its exit code. Raises: Violation where it does not end in time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)  # What it waits for goes to its screen.
            time.sleep(1)
            raise Violation(
                f"a driver did not end within {seconds:.0f} s: {self.said()[-4000:]}"
            ) from None


@dataclass(eq=False)
class Scene:
    """One schedule. done: what was done, in order; kills: workers that were hit; over: its kind has
    finished it; poison: rows that must come out without a text."""

    seed: int
    folder: Path
    undisturbed: Path
    cluster: Cluster
    rng: Random = field(init=False)
    poison: dict[tuple[str, str], str] = field(default_factory=dict)
    drives: list[Drive] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    kills: int = 0
    over: bool = False
    options: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        self.started = time.monotonic()
        self.out = self.folder / "out"

    def note(self, text: str) -> None:
        self.done.append(f"{time.monotonic() - self.started:.1f} {text}")

    # What is set up

    def prepare(self, **rules: Any) -> None:
        """A manifest, and how rows behave."""
        world.copy(self.undisturbed, self.out)
        self.rule(**{"pause": self.rng.choice((0.01, 0.02, 0.04)), "rows": {}, **rules})

    def rule(self, **rules: Any) -> None:
        """Rules of the schedule, added to those that hold."""
        path = world.rules_of(self.out)
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**before, **rules}))

    # Drivers

    def drive(self, workers: int | None = 0, own: bool = False, **options: float) -> Drive:
        """Start a driver; workers 0 is a number by chance, None as many as the cluster has room.

        own: on a Ray that it starts for itself.
        """
        if workers == 0:
            workers = self.rng.choice(WORKERS)
        given = {"gone": 12.0, **self.options, **options}
        command = [sys.executable, "-m", "tests.chaos.driver", str(self.out)]
        command += [] if own else ["--address", self.cluster.address]
        command += [] if workers is None else ["--workers", str(workers)]
        for name, value in given.items():
            command += [f"--{name}", str(value)]
        screen = self.folder / f"screen-{len(self.drives)}"
        with screen.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        self.drives.append(Drive(process, screen))
        self.note(f"driver {len(self.drives)} with workers={workers} {options or ''}".strip())
        return self.drives[-1]

    def ended(self, drive: Drive, code: int | None = None, seconds: float = END_SECONDS) -> int:
        """Wait for a driver's end: an honest one, and the one expected, if any."""
        found = drive.end(seconds)
        self.note(f"exit {found}")
        if not drive.killed:
            check.honest(found, drive.said(), self.out, self.undisturbed)
        if code is not None and found != code:
            raise Violation(f"exit code {found}, not {code}: {drive.said()[-800:]}")
        return found

    def finish(self) -> None:
        """The same command again until everything is there, then once more for nothing."""
        for drive in self.drives:
            if drive.running:
                self.ended(drive)
        for _ in range(4):
            if self.ended(self.drive()) == 0:
                break
        else:
            raise Violation(f"still not complete: {self.drives[-1].said()[-800:]}")
        self.compare()
        check.age(check.leftovers(self.out))
        self.ended(self.drive(1), 0)
        if check.leftovers(self.out):
            raise Violation("what killed writers left was not removed after its hour")
        self.compare()

    def compare(self) -> None:
        check.same(self.out, self.undisturbed, self.poison)
        check.made_once(self.out)

    def close(self) -> None:
        """Nothing of the schedule goes on."""
        for drive in self.drives:
            if drive.running:
                drive.process.send_signal(signal.SIGCONT)
                drive.process.kill()
            drive.process.wait()

    # What happens meanwhile

    def parts(self) -> int:
        return sum(1 for _ in (self.out / "responses").rglob("part-*.parquet"))

    def workers(self) -> list[int]:
        """Processes of workers that a driver has told of and that live."""
        told = [event["pid"] for event in check.events(self.out, "worker")]
        return [pid for pid in dict.fromkeys(told) if alive(pid) and "ray::" in command_of(pid)]

    def until(self, what: Callable[[], Any], seconds: float = 90.0) -> Any:
        """Wait until something is so, or no driver runs any more."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := what():
                return found
            if not any(drive.running for drive in self.drives):
                return None
            time.sleep(0.02)
        return None

    def a_moment(self, longest: float = 3.0) -> None:
        """Until a part more is there, or some, then up to so many seconds by chance."""
        wanted = min(self.parts() + self.rng.randint(1, 6), LAST)
        self.until(lambda: self.parts() >= wanted and self.workers())
        time.sleep(self.rng.uniform(0, longest) ** 2 / longest)

    def hit(self, which: signal.Signals = signal.SIGKILL) -> int | None:
        """Send a signal to a worker by chance; None where there is none.

        Not to one that has been given a row alone, nor again and again to those that have the last
        shards: whose worker is ended then is rightly taken for its murderer.
        """
        found = self.workers()
        if not found or self.parts() >= LAST or self._isolated():
            return None
        pid = self.rng.choice(found)
        if not signal_to(pid, which):
            return None
        self.kills += 1
        self.note(f"{which.name} to a worker")
        return pid

    def _isolated(self) -> bool:
        alone = {(event["cell"], event["part"]) for event in check.events(self.out, "isolate")}
        return bool(alone - {(e["cell"], e["part"]) for e in check.events(self.out, "done")})
