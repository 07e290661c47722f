"""A world: hosts, a disk, commands and workers, and a schedule of what happens to them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from lmmsteer.fleet import scheduler as scheduling
from lmmsteer.fleet.driver import Cause
from tests.simulation import oracle
from tests.simulation.commands import Command
from tests.simulation.disk import SimDisk
from tests.simulation.fibers import Endless, Over, Turns
from tests.simulation.place import Place
from tests.simulation.process import Dead, Process, Violation
from tests.simulation.projects import OUT, Project, project
from tests.simulation.schedule import WEATHER, Fault, Launch, Schedule
from tests.simulation.stand_ins import here
from tests.simulation.store import SimStore
from tests.simulation.tree import File, Tree
from tests.simulation.watch import Watch
from tests.simulation.workers import SimWorker

MOST = 12_000  # Steps; the longest healthy schedule needs a tenth.
CALM = 3  # Undisturbed commands, after which all must be done.
HOUR = 3600.0


class World:
    """Runs one schedule: `play` raises Violation where a promise is broken."""

    def __init__(self, schedule: Schedule, verbose: bool = False) -> None:
        self.schedule, self.verbose = schedule, verbose
        self.medium = schedule.medium
        self.project: Project = project(schedule.project)
        self.chance = Random(schedule.seed ^ 0x5EED)
        self.turns = Turns(MOST)
        self.tree = Tree()
        self.root, self.out = Place(OUT), OUT
        self.watch = Watch(self.tree, OUT, self.medium.exclusive)
        self.watch.valid = self._valid
        self.watch.clock = lambda: self.now
        self.trace: list[str] = []
        self.faults = {(f.step, f.at): f for f in schedule.faults if f.step != "time"}
        self.counts: dict[str, int] = {}
        self.hits: list[tuple[str, str, str]] = []
        self.refusing: dict[str, tuple[int, str]] = {}
        self.weather: list[tuple[float, str]] = []
        self.recent: dict[str, tuple[float, str, Any]] = {}
        self.backwards = schedule.seed % 2 == 1
        self.skew: dict[str, float] = {}
        self.stamp_skew = 0.0
        self.running: dict[Any, Process] = {}
        self.commands: list[Command] = []
        self.history: list[Command] = []
        self.hosts = {f"host{n}": schedule.places for n in range(schedule.hosts)}
        self.extra_room = 0
        self.ended_alone: set[tuple[str, str, int]] = set()
        self.damaged: set[str] = set()
        self.healed = False
        self.calm = False
        self.before_calm = 0
        self._still: dict[Command, list[str]] = {}
        self._numbers = 0
        self.poisoned = self._poisoned()
        self._launches = list(schedule.launches)
        self._fresh = schedule.seed % 16 == 3

    @property
    def now(self) -> float:
        return self.turns.now

    @property
    def stamp(self) -> float:
        """What the file system's clock says."""
        return self.turns.now + self.stamp_skew

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def say(self, process: Process | None, what: str) -> None:
        if self.verbose:
            self.trace.append(f"{self.now:9.1f} {process.name if process else '':12} {what}")

    # A schedule, from its first command to the last check

    def play(self) -> None:
        here.world = self
        scheduling.BREAKER_ROWS = 3 if self.schedule.breaker else 100
        self.lay_out(self._fresh)
        for fault in self.schedule.faults:
            if fault.step == "time":
                self.turns.at(fault.at / 8, lambda fault=fault: self._happen(fault))
        self._next_launch()
        try:
            self.turns.run()
            oracle.check(self)
        except Endless as error:
            raise Violation(f"P15 {error}") from error
        finally:
            self._close()

    def lay_out(self, fresh: bool) -> None:
        """The disk as it is at the start: empty, or with a finished manifest."""
        self.tree.make_folder("/sim")
        if not fresh:
            self.tree.make_folder(OUT)
            for path, data in self.project.files.items():
                self._plant(path, data)
                self.watch.promised.add(path)
        self.tree.sync_all()

    def _plant(self, path: str, data: bytes) -> None:
        at = OUT
        for name in path.split("/")[:-1]:
            at = f"{at}/{name}"
            if at not in self.tree.folders:
                self.tree.make_folder(at)
        file = self.tree.create(f"{OUT}/{path}", 0.0, "")
        file.data = file.kept = data
        self.watch.shown[path] = data

    def _close(self) -> None:
        for process in self.running.values():
            process.dead = True
        self.turns.close()

    def _next_launch(self) -> None:
        """What the user does next; in the end the same command, undisturbed, until all is done."""
        if self._launches:
            self._launch(self._launches.pop(0))
            return
        self._calm_down()
        if oracle.settled(self, self.schedule.seed % 4 > 0):
            return
        if len(self.history) - self.before_calm >= CALM:
            said = " | ".join(self.history[-1].said)
            raise Violation(f"P15 not done after {CALM} undisturbed commands: {said[-400:]}")
        after = self.history[self.before_calm :]
        verified = not self.damaged or any(command.verb == "verify" for command in after)
        verb = "generate" if verified else "verify"
        self._launch(Launch(verb, (2,)))

    def _calm_down(self) -> None:
        """From here on nothing breaks any more; who sleeps may still wake up."""
        if self.calm:
            return
        self.calm = True
        self.faults.clear()
        self.refusing.clear()
        self.weather.clear()
        self.recent.clear()
        self.hosts = {f"host{n}": self.schedule.places for n in range(self.schedule.hosts)}
        self.extra_room = 0
        self.before_calm = len(self.history)

    def _launch(self, launch: Launch) -> None:
        if launch.before:
            self._before(launch.before)
        for number, workers in enumerate(launch.workers):
            host = list(self.hosts)[number % len(self.hosts)] if self.hosts else "host0"
            command = Command(self, launch.verb, workers, host)
            self.commands.append(command)
            self.say(command, f"is given, for {workers} workers")
            self._start(command, self.now + number * launch.later)
            if launch.verb == "verify" and self.calm:
                self._still[command] = self.still_damaged()

    def _before(self, what: str) -> None:
        if what == "heal":
            self.healed = True
        elif what == "damage":
            self._damage()
        elif what == "power":
            self.lose_power(None)

    def _start(self, process: Any, when: float) -> None:
        process.began = when
        process.fiber = self.turns.start(process.life, when)
        self.running[process.fiber] = process

    def ended(self, command: Command) -> None:
        """A command is over: what it said is held against what is there, its workers go."""
        self.commands.remove(command)
        del self.running[command.fiber]
        self.history.append(command)
        self.say(command, f"ended with {command.code}: {' | '.join(command.said)}")
        if command.code is not None:
            oracle.honest(self, command)
            oracle.bounded(self, command)
        for worker in command.fleet.hired:
            self.turns.at(self.now + 0.5, lambda worker=worker: self.end(worker))
        command.fleet.wanted.clear()
        if not self.commands:
            self.turns.at(self.now + 1.0 + self.medium.delay, self._next_launch)

    # Hosts and workers

    def is_bad(self, host: str) -> bool:
        last = f"host{self.schedule.hosts - 1}"
        return bool(self.schedule.bad_host) and host == last

    def room(self) -> int:
        return sum(self.hosts.values()) + self.extra_room

    def place_workers(self) -> None:
        """Start the workers that are wanted, where there is a place."""
        for fleet in [command.fleet for command in self.commands]:
            while fleet.wanted and (host := self._free_host()) is not None:
                number = fleet.wanted.pop(0)
                worker = SimWorker(self, fleet, number, host)
                fleet.workers[number] = worker
                fleet.hired.append(worker)
                self._start(worker, self.now)

    def _free_host(self) -> str | None:
        taken: dict[str, int] = {}
        for process in self.running.values():
            if isinstance(process, SimWorker) and not process.dead and not process.doomed:
                taken[process.host] = taken.get(process.host, 0) + 1
        for host, places in sorted(
            self.hosts.items()
        ):  # The bad one last, also after others' loss.
            if taken.get(host, 0) < places + self.extra_room:
                return host
        return None

    def kill(self, process: Process, cause: Cause = "died") -> None:
        process.kill()
        if isinstance(process, SimWorker):
            process.fleet.lose(process, cause)
            self.turns.at(self.now, self.place_workers)

    def gone(self, worker: SimWorker) -> None:
        self.turns.at(self.now, self.place_workers)

    def end(self, worker: SimWorker) -> None:
        """Kill it; or, where it cannot be reached, when it has awoken and done what it was at."""
        if worker.stopped and self.chance.random() < 0.7:
            worker.doomed = True
            self.turns.at(self.now, self.place_workers)
        else:
            worker.kill()

    def host_down(self, host: str, seconds: float) -> None:
        """A host leaves the cluster with its workers, and comes back."""
        places = self.hosts.pop(host, None)
        if places is None:
            return
        for process in list(self.running.values()):
            if isinstance(process, SimWorker) and process.host == host and not process.dead:
                self.kill(process, "node")
        if self.medium.network:
            self.tree.lose_host(host, self.chance)

        def back() -> None:
            self.hosts.setdefault(host, places)
            self.place_workers()

        self.turns.at(self.now + seconds, back)

    def lose_power(self, here: Process | None) -> None:
        """The machine with the disk ends, and all that run on it; only synced things are sure."""
        self.say(here, "the power fails")
        for process in list(self.running.values()):
            process.kill()
        self.tree.lose_power(self.chance)
        self.watch.after_loss()

    def ask_to_stop(self, process: Process) -> None:
        if isinstance(process, Command):
            process.ask_to_stop()

    # What befalls them

    def befalls(self, step: str) -> Fault | None:
        """The fault of a point that is reached now, if there is one."""
        count = self.counts.get(step, 0)
        self.counts[step] = count + 1
        fault = self.faults.get((step, count))
        if fault is not None:
            self.hit(fault, step)
        return fault

    def hit(self, fault: Fault, op: str) -> None:
        self.hits.append((fault.step, op, fault.do))
        self.say(None, f"--- {fault}")

    def weather_of(self, *kinds: str) -> bool:
        return any(kind in kinds and self.now < until for until, kind in self.weather)

    def _happen(self, fault: Fault) -> None:
        if self.calm:
            return
        self.hit(fault, "time")
        do, much = fault.do, fault.much
        if do in WEATHER:
            self.weather.append((self.now + much, do))
        elif do == "kill worker":
            self._pick(SimWorker, much, lambda worker: self.kill(worker))
        elif do == "lose contact":
            self._pick(SimWorker, much, lambda worker: worker.fleet.lose(worker, "died"))
        elif do == "kill driver":
            self._pick(Command, much, lambda command: command.kill())
        elif do == "stop driver":
            self._pick(Command, 0, lambda command: setattr(command, "halt", much))
        elif do == "drain":
            self._pick(Command, 0, self._drain)
        elif do == "host down":
            self.host_down(f"host{int(much) % self.schedule.hosts}", 0.5 * much)
        elif do == "room":
            self.extra_room = int(much) - sum(self.hosts.values())
            self.place_workers()
        elif do == "clock":
            self._turn_clocks()
        elif do == "power":
            self.lose_power(None)
        elif do in ("deleted", "deleted cell"):
            self._delete(self.project.folders[0] if do == "deleted cell" else "")

    def _pick(self, kind: type, which: float, act: Any) -> None:
        found = [p for p in self.running.values() if isinstance(p, kind) and not p.dead]
        if found:
            act(found[int(which) % len(found)])

    def _drain(self, command: Command) -> None:
        """A signal that comes while the driver waits for events."""
        if command.driver is not None and not command.asked:
            command.ask_to_stop()

    def _turn_clocks(self) -> None:
        for host in ("host0", "host1", "host2"):
            self.skew[host] = self.chance.choice((-HOUR, HOUR, 0.0, -7.0))
        self.stamp_skew = self.chance.choice((-HOUR, HOUR, 2 * HOUR))

    def _delete(self, below: str) -> None:
        """Somebody deletes the folder, or a cell's, while it is written to."""
        path = f"{OUT}/{below}" if below else OUT
        self.tree.remove_folder(path)
        self.watch.forget(below)
        self.damaged = {path for path in self.damaged if not path.startswith(below)}

    # Poison

    def _poisoned(self) -> dict[str, str]:
        """What a row does to its worker, by row id; of a picture, by image id."""
        found: dict[str, str] = {}
        rows = self.project.rows
        for shard, row, what in self.schedule.poison:
            mine = rows[shard % len(rows)]
            row_id, image_id = mine[row % len(mine)]
            found[image_id if what == "picture" else row_id] = what
            if what == "pair":
                found[mine[(row + 1) % len(mine)][0]] = what
        return found

    def poison(self, requests: Sequence[Any], number: int, shown: Any) -> str:
        """What a row does to its worker where it is shown with its own prompt and picture."""
        if not self.poisoned or self.healed:
            return ""
        row = requests[number]
        if self.poisoned.get(row.image_id) == "picture" and shown.error(row.image_id) is None:
            return "kills"
        what = self.poisoned.get(row.row_id, "")
        if not what or row.prompt not in self.project.identity["prompts"].values():
            return ""
        if what == "pair":
            both = sum(self.poisoned.get(r.row_id) == "pair" for r in requests)
            return "kills" if both > 1 else ""
        return what if what != "picture" else ""

    # Damage

    def _damage(self) -> None:
        """What bit rot and people do to files of a finished run."""
        files = {
            b: f for b in self.watch.shown if isinstance(f := self.tree.find(f"{OUT}/{b}"), File)
        }
        parts = sorted(b for b in files if b.endswith(".parquet") and b.startswith("responses"))
        for below in self.chance.sample(parts, min(len(parts), self.chance.choice((1, 1, 2)))):
            data = files[below].data
            kind = self.chance.choice(("flip", "cut", "delete", "empty", "swap"))
            if kind == "swap" and f"{below.rpartition('/')[0]}/_cell.json" not in files:
                kind = "empty"  # Without its record nobody could tell whose a whole part is.
            if kind == "flip":
                at = self.chance.randrange(len(data))
                data = (
                    data[:at] + bytes([data[at] ^ (1 << self.chance.randrange(8))]) + data[at + 1 :]
                )
            elif kind == "cut":
                data = data[: self.chance.randrange(len(data))]
            elif kind == "empty":
                data = b""
            elif kind == "swap":
                data = files[self.chance.choice(parts)].data
            self._replace(below, files[below], data, kind)

    def _replace(self, below: str, file: File, data: bytes, kind: str) -> None:
        if kind != "delete" and data == file.data:
            return
        self.say(None, f"--- {below}: {kind}")
        self.damaged.add(below)
        self.watch.forget(below)
        if kind == "delete":
            self.tree.remove(f"{OUT}/{below}")
        else:
            file.data = file.kept = data
            self.watch.shown[below] = data
        self.tree.sync_all()

    def still_damaged(self) -> list[str]:
        """Files that were damaged and are not what they were."""
        return [b for b in sorted(self.damaged) if oracle.there(self, b) not in self._valid(b)]

    def bad(self) -> list[str]:
        """Those of them that are there."""
        return [b for b in self.still_damaged() if oracle.there(self, b) is not None]

    def damaged_before(self, command: Command) -> list[str]:
        """What was damaged when a verify began."""
        return self._still.get(command, [])

    def kills_for_ever(self, row_id: str, image_id: str) -> bool:
        kinds = (self.poisoned.get(row_id), self.poisoned.get(image_id))
        return not self.healed and any(k in ("kills", "hangs", "picture") for k in kinds)

    def excuses_manifest(self, path: str) -> bool:
        """It was deleted, and no command has begun since."""
        gone = oracle.there(self, path) is None
        return gone and self.watch.vanished_at >= max(c.began for c in self.history)

    def collect(self) -> None:
        """What the next run does first, some hours later."""
        self.recent.clear()
        self.stamp_skew += 9 * HOUR
        store_of(self).collect()

    def _valid(self, below: str) -> set[bytes]:
        return self.project.made.get(below, set())


def store_of(world: World) -> SimStore:
    """A store for whoever only looks, after all is over."""
    looker = Process(world, "looker", "host0", "look at the end")
    return SimStore(world.root, SimDisk(world, looker))


__all__ = ["Dead", "Over", "World", "store_of"]
