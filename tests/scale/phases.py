"""What is done with millions of rows, a phase at a time, each measured in a process of its own."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lmmsteer import manifest, parts
from lmmsteer.ahead import in_order
from lmmsteer.fleet import cells, verify
from lmmsteer.fleet.plan import Plan
from lmmsteer.schema import RESPONSES, Response, row_id, to_table
from lmmsteer.store import Store, open_store
from tests.scale import world
from tests.scale.world import NAME, Made

COMMITS = 200
SAMPLE = 0.01
Figures = dict[str, Any]


class Clock:
    """Seconds of wall and of CPU (this process and those it waited for), by the name of a step."""

    def __init__(self) -> None:
        self.figures: Figures = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        wall, cpu = time.monotonic(), _cpu()
        yield
        self.figures[name] = {
            "wall_s": round(time.monotonic() - wall, 2),
            "cpu_s": round(_cpu() - cpu, 2),
        }


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_mib() -> float:
    """The most memory that this process, or one that it waited for, has held."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return round(max(resource.getrusage(who).ru_maxrss for who in kinds) / 1024)


def build(store: Store, identity: dict[str, Any], clock: Clock) -> None:
    """What is missing of the manifest."""
    source = Made(identity["dataset"]["pictures"])
    with clock.step("build"):
        made = manifest.build(store, NAME, source, identity)
    step = clock.figures["build"]
    step["rows_made"] = len(source.reads) * world.ROWS_A_PICTURE
    step["rows_per_wall_s"] = round(step["rows_made"] / max(step["wall_s"], 0.01))
    step["rows_per_cpu_s"] = round(step["rows_made"] / max(step["cpu_s"], 0.01))
    clock.figures |= {"rows": made.rows, "pictures": made.images, "shards": len(made.shards)}
    assert made.rows == identity["dataset"]["pictures"] * world.ROWS_A_PICTURE
    with clock.step("build again"):
        assert manifest.build(store, NAME, Made(0), identity).shards == made.shards


def answer(store: Store, identity: dict[str, Any], clock: Clock) -> None:
    """Response parts of all shards but a few."""
    made = manifest.load(store, NAME)
    assert made is not None
    cell = world.record(identity)
    cells.record(store, cell, None)
    names = [shard.name for at, shard in enumerate(made.shards) if world.answered(at)]
    there = cells.done(store, cell.cell.folder)
    todo = [name for name in names if name not in there]
    with clock.step("answer"):
        failed = sum(in_order(lambda name: world.respond(store, cell, name), todo, 2))
    clock.figures |= {"parts_answered": len(todo), "rows_failed": failed}


def scan(store: Store, identity: dict[str, Any], clock: Clock) -> None:
    """What a resume finds out before its first shard."""
    cell = world.record(identity)
    task = SimpleNamespace(model="m", folder=cell.cell.folder)
    config = SimpleNamespace(max_failed_share=0.01)
    job: Any = SimpleNamespace(cell=cell.cell, task=task, config=config)
    with clock.step("scan"):
        with clock.step("load"):
            made = manifest.gate(store, NAME, identity)
        assert made is not None
        with clock.step("listing of the manifest"):
            assert manifest.missing(store, made) == []
        plan = Plan(store, [job], manifests={NAME: made})
        with clock.step("listing of the answers, shards left"):
            left = plan.left(job)
        with clock.step("footers of the answers"):
            planned, done, failed = plan.counts(job)
        with clock.step("work-list"):
            (lot,) = plan.lots([job])
            items = list(iter(lambda: lot.take({}, lambda item: None), None))
    expected = [shard for at, shard in enumerate(made.shards) if not world.answered(at)]
    assert left == expected
    assert [item.part for item in items] == [shard.name for shard in expected]
    assert planned - done == sum(shard.rows for shard in expected)
    clock.figures |= {"rows_left": planned - done, "shards_left": len(left)}
    clock.figures["rows_failed"] = failed.total()


def check(store: Store, identity: dict[str, Any], clock: Clock) -> None:
    """A sample of the shards re-read."""
    with clock.step("verify"):
        found = verify.verify(store, verify.Settings(sample=SAMPLE))
    made = manifest.load(store, NAME)
    assert made is not None
    folder = world.record(identity).cell.folder
    expected = [s.name for at, s in enumerate(made.shards) if not world.answered(at)]
    faults = [(fault.path, fault.kind) for fault in found.faults]
    assert faults == [(f"{folder}/{name}", "missing") for name in expected]
    clock.figures |= {"parts_there": found.parts, "parts_checked": found.checked}


def commit(store: Store, identity: dict[str, Any], clock: Clock) -> None:
    """Parts of 1,000 answers, each of 60 words and 80 tokens, committed one after the other."""
    walls, cpus, data = [], [], b""
    for number in range(COMMITS):
        table = to_table(_answers(number), RESPONSES)
        wall, cpu = time.monotonic(), _cpu()
        data = parts.to_bytes(table, "0" * 64, {"lmmsteer.failed": "{}"})
        assert store.create(f"commit/{parts.part_name(number)}", data)
        walls.append(time.monotonic() - wall)
        cpus.append(_cpu() - cpu)
    clock.figures["commit of 1,000 rows"] = {
        "wall_ms": round(1000 * statistics.median(walls), 2),
        "cpu_ms": round(1000 * statistics.median(cpus), 2),
        "least_wall_ms": round(1000 * min(walls), 2),
        "bytes": len(data),
    }


def _answers(number: int) -> list[Response]:
    words = world.WORDS
    rows = []
    for at in range(1000):
        image, seed = f"set-{number:06d}/{at}.png", at % 3
        text = " ".join(words[(at * k * k + number) % len(words)] for k in range(60)) + ".\n"
        tokens = [(at * k + number) % 32_000 for k in range(80)]
        row = row_id(image, None, "Describe the person.", seed)
        rows.append(Response(row, image, "describe", seed, text, tokens, 80, "eos"))
    return rows


PHASES: dict[str, Callable[[Store, dict[str, Any], Clock], None]] = {
    "build": build,
    "answer": answer,
    "scan": scan,
    "verify": check,
    "commit": commit,
}


def run(name: str, folder: Path, identity: dict[str, Any]) -> Figures:
    """One phase on an output folder: its figures, and the most memory that it took."""
    clock = Clock()
    clock.figures["imports_mib"] = peak_mib()
    PHASES[name](open_store(str(folder)), identity, clock)
    return {**clock.figures, "peak_mib": peak_mib()}
