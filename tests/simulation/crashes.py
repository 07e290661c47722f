"""Every operation on the disk as the one at which a process, or the machine, dies.

The operations of an undisturbed deed are counted; then it is done again as often as there are
operations, and ends at each of them: before it, after it, within a write; the process alone, or the
machine with all that was not synced. What follows is what a user does, the same once more, and the
end must be that of the undisturbed deed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from jobs import resume
from lmmsteer import manifest
from lmmsteer.fleet import cells, commit
from lmmsteer.fleet.plan import Plan
from lmmsteer.fleet.task import Task
from lmmsteer.fleet.verify import aside, verify
from lmmsteer.schema import Request, Response
from tests.simulation.commands import Command
from tests.simulation.model import says
from tests.simulation.process import Dead
from tests.simulation.projects import NAME, OUT
from tests.simulation.schedule import DISK, Fault, Medium, Schedule
from tests.simulation.stand_ins import here
from tests.simulation.store import SimStore
from tests.simulation.tree import File
from tests.simulation.world import World

ENDS = ("kill", "kill after", "power", "power after")
PROJECT = 1
Files = dict[str, bytes]


@dataclass
class Hits:
    """deaths: how often each operation was the last one, by step and name; ends: of which kind."""

    deaths: Counter[tuple[str, str]] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    points: int = 0


Deed = Callable[[Command], None]


@dataclass(frozen=True)
class Trial:
    """prepare: what was done before, undisturbed. deed: what is interrupted; done again, it ends.

    after: what the next run does anyway, so that the end can be compared.
    """

    prepare: Deed
    deed: Deed
    after: Deed


class Bench:
    """A world without a clock, in which one process after the other does a deed and may die."""

    def __init__(self, medium: Medium, seed: int) -> None:
        self.world = World(Schedule(seed, PROJECT, medium, 1, 1, ()))
        self.world.lay_out(fresh=True)
        here.world = self.world

    def run(self, deed: Deed, faults: tuple[Fault, ...] = ()) -> bool:
        """Whether a process has done a deed to its end."""
        world = self.world
        world.faults = {(fault.step, fault.at): fault for fault in faults}
        world.counts.clear()
        command = here.alone = Command(world, "generate", 1, "host0")
        world.running[command] = command
        try:
            deed(command)
        except Dead:
            return False
        finally:
            here.alone = None
            del world.running[command]
        return True

    def counted(self, deed: Deed) -> dict[str, int]:
        """Operations of a deed by step, looking left out."""
        self.run(deed)
        return {step: count for step, count in self.world.counts.items() if step != "look"}

    def files(self) -> Files:
        """What is visible of the data set, all of which must outlive the machine."""
        found = {}
        for path, node in self.world.tree.files().items():
            below = path[len(OUT) + 1 :]
            if below.startswith(("manifest", "responses")) and "/." not in path:
                assert self.world.tree.durable(path), f"{below} would not outlive the machine"
                found[below] = node.data
        return found

    def leftovers(self) -> list[str]:
        """Hidden files that are there once the next runs have collected."""
        self.world.collect()
        return [path for path in self.world.tree.files() if "/." in path]


def enumerate_crashes(trial: Trial, medium: Medium = DISK, deaths: int = 1) -> Hits:
    """Die at every operation of the deed (and, of two deaths, at every one of the second run too).

    Raises: AssertionError where the end is another than the undisturbed one.
    """
    expected, counts = _undisturbed(trial, medium)
    hits = Hits(points=sum(counts.values()))
    for first in _faults(counts):
        for second in _faults(counts) if deaths == 2 else (None,):
            _die(trial, medium, expected, first, second, hits)
    return hits


def _faults(counts: dict[str, int]) -> Iterator[Fault]:
    for step, count in counts.items():
        for at in range(count):
            for end in ENDS:
                yield Fault(step, at, end)


def _undisturbed(trial: Trial, medium: Medium) -> tuple[Files, dict[str, int]]:
    bench = Bench(medium, 0)
    bench.run(trial.prepare)
    counts = bench.counted(trial.deed)
    bench.run(trial.after)
    return bench.files(), counts


def _die(
    trial: Trial,
    medium: Medium,
    expected: Files,
    first: Fault,
    second: Fault | None,
    hits: Hits,
) -> None:
    bench = Bench(medium, hits.ends.total())
    assert bench.run(trial.prepare)
    assert not bench.run(trial.deed, (first,)), f"{first} did not end it"
    step, op, do = bench.world.hits[-1]
    hits.deaths[step, op] += 1
    hits.ends[do] += 1
    if second is not None:
        bench.run(trial.deed, (second,))  # It may be over before that operation.
    assert bench.run(trial.deed)
    assert bench.run(trial.after)
    where = f"{medium.name}: {first} at {op}" + (f", then {second}" if second else "")
    assert bench.files() == expected, f"another end after {where}"
    left = bench.leftovers()
    assert not left, f"{left[0]} was left behind after {where}"


# What is interrupted


def build(command: Command) -> None:
    """The manifest."""
    project = command.world.project
    manifest.build(command.store, NAME, project.source, project.identity)


def record(command: Command) -> None:
    """Every cell's record."""
    for job in _jobs(command):
        cells.record(command.store, job.record, cells.load(command.store, job.cell.folder))


def record_again(command: Command) -> None:
    """The records once more, by a machine with another stack."""
    for job in _jobs(command):
        asked = replace(job.record, stack={**job.record.stack, "torch": "3"})
        cells.record(command.store, asked, cells.load(command.store, job.cell.folder))


def commit_one(command: Command) -> None:
    """One shard's part, unless it is there."""
    _commit(command.store, _jobs(command)[0].task, 0)


def commit_all(command: Command) -> None:
    for job in _jobs(command):
        for shard in range(len(command.world.project.rows)):
            _commit(command.store, job.task, shard)


def fail_one(command: Command) -> None:
    """A cell of which one shard has a failed row."""
    build(command)
    record(command)
    _commit(command.store, _jobs(command)[0].task, 1, failed=True)
    commit_all(command)


def retry(command: Command) -> None:
    """What `resume retry=true` does before it answers."""
    plan = Plan._of(command.store, _jobs(command), lambda job: job, lambda job: str(job.cell))
    resume._move_failed(plan, command.store, True)


def damage(command: Command) -> None:
    """A finished data set, of which two files are damaged."""
    fail_one(command)
    world = command.world
    paths = [f"{_jobs(command)[0].cell.folder}/part-00000.parquet"]
    paths.append("manifest/dataset=faces/rows/part-00001.parquet")
    for path in paths:
        file = world.tree.file(f"{OUT}/{path}")
        file.data = file.kept = file.data[:9] + bytes([file.data[9] ^ 4]) + file.data[10:]
        world.watch.forget(path)
        world.watch.shown[path] = file.data


def repair(command: Command) -> None:
    """verify repair=true."""
    aside(command.store, verify(command.store).faults, f"{command.world.number():08x}")


def answer(command: Command) -> None:
    """What makes again what is missing."""
    build(command)
    record(command)
    commit_all(command)
    settle(command)


def prepared(command: Command) -> None:
    build(command)
    record(command)


def settle(command: Command) -> None:
    """What every run does before it calls something complete."""
    command.store.collect()


def nothing(command: Command) -> None: ...


TRIALS = {
    "commit": Trial(prepared, commit_one, settle),
    "manifest": Trial(nothing, build, settle),
    "record": Trial(build, record, settle),
    "record of another stack": Trial(prepared, record_again, settle),
    "retry": Trial(fail_one, retry, answer),
    "repair": Trial(damage, repair, answer),
}


def _jobs(command: Command) -> list[Any]:
    return command.world.project.jobs(1, 1.0, 4.0)


def _commit(store: SimStore, task: Task, number: int, failed: bool = False) -> None:
    """As a worker does it: what is there is found, all else is answered and committed."""
    part = store.process.world.project.part(number)
    if commit.found(store, task, part) is not None:
        return
    requests = manifest.read_rows(store, task.dataset, part)
    responses = [_response(task, request, n, len(requests)) for n, request in enumerate(requests)]
    if failed:
        responses[0] = commit.not_shown(requests[0], "worker_died")
    report = commit.commit(store, task, part, responses)
    assert report.failure is None, report.error


def _response(task: Task, row: Request, place: int, rows: int) -> Response:
    tokens = task.sampling.max_new_tokens
    text = says(task.model.name, tokens, row.row_id, row.seed, place, rows)
    return Response(row.row_id, row.image_id, row.prompt_id, row.seed, text, [place], 1, "eos")


__all__ = ["ENDS", "TRIALS", "File", "Hits", "Trial", "enumerate_crashes"]
