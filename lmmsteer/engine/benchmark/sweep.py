"""Which batch size a contender is best at: one batch is timed at each, the rest is predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lmmsteer.engine.benchmark import memory
from lmmsteer.engine.benchmark.contenders import timed
from lmmsteer.engine.benchmark.hooked import Hooks
from lmmsteer.engine.benchmark.paged import Paged
from lmmsteer.engine.benchmark.workload import Workload, batches
from lmmsteer.engine.edit import Edit
from lmmsteer.models.lmm import Lmm

LADDER = (6, 15, 30, 60, 120, 240, 480)
OUT_OF_MEMORY = "out of memory"
WORSE = 2  # Sizes in a row that are slower than the best before the sweep ends.


@dataclass(frozen=True)
class Try:
    """One batch size: what was timed, and the rate it promises for the whole workload.

    failed: why this size could not be run, mostly `out of memory`; the sweep ends there.
    """

    rows: int
    by: str
    first_token_seconds: float = 0.0
    step_seconds: float = 0.0
    tokens_per_second: float = 0.0
    failed: str = ""


def sizes(asked: Sequence[int], work: Workload) -> list[int]:
    """Batch sizes to try, each at most the rows there are."""
    rows = len(work.requests)
    ladder = sorted({*LADDER, work.rows_per_picture}) if not asked else list(asked)
    return [size for size in ladder if size <= rows] or [rows]


def hooks(lmm: Lmm, work: Workload, edit: Edit, asked: Sequence[int], steps: int) -> list[Try]:
    """`generate` with hooks at every size: a batch of `steps` steps, then arithmetic.

    Predicted seconds: over all batches, first token + (longest row - 1) x step.
    """
    tries: list[Try] = []
    for size, by in _combinations(work, asked):
        try:
            tries.append(_one(lmm, work, edit, size, by, steps))
        except Exception as error:
            if not memory.ran_out(error):
                raise
            tries.append(Try(size, by, failed=OUT_OF_MEMORY))
            break
        if _hopeless(tries):
            break
    return tries


def _combinations(work: Workload, asked: Sequence[int]) -> Iterator[tuple[int, str]]:
    if not asked:
        yield work.rows_per_picture, "picture"
    for size in sizes(asked, work):
        yield size, "prompt"


def _one(lmm: Lmm, work: Workload, edit: Edit, size: int, by: str, steps: int) -> Try:
    rows = batches(work, size, by)[0]
    batch = replace(work.only(rows), lengths=(steps + 1,) * len(rows))
    run = timed(Hooks(size, "picture"), lmm, batch, edit)
    first = run.answers.first_token_seconds or run.seconds
    step = (run.seconds - first) / steps
    longest = (max(work.lengths[row] for row in rows) for rows in batches(work, size, by))
    seconds = sum(first + (length - 1) * step for length in longest)
    return Try(size, by, first, step, work.tokens / seconds)


def paged(lmm: Lmm, work: Workload, asked: Sequence[int], steps: int) -> list[Try]:
    """`generate_batch` at every concurrency, on as many rows with short answers."""
    tries: list[Try] = []
    for size in sizes(asked, work):
        part = work.part(size, steps)
        try:
            run = timed(Paged(size), lmm, part, Edit())
        except Exception as error:
            if not (memory.ran_out(error) or tries):
                raise
            why = OUT_OF_MEMORY if memory.ran_out(error) else str(error).split("\n")[0]
            tries.append(Try(size, "picture", failed=why))
            break
        rate = part.tokens / run.seconds
        tries.append(Try(size, "picture", tokens_per_second=rate))
        if _hopeless(tries):
            break
    return tries


def _hopeless(tries: Sequence[Try]) -> bool:
    rates = [one.tokens_per_second for one in tries]
    return len(rates) > WORSE and max(rates[-WORSE:]) < max(rates)


def best(tries: Sequence[Try]) -> list[Try]:
    """Those that fit, the fastest first."""
    fitting = [one for one in tries if not one.failed]
    return sorted(fitting, key=lambda one: -one.tokens_per_second)


def as_rows(tries: Sequence[Try]) -> list[dict[str, Any]]:
    """For the report."""
    return [asdict(one) for one in tries]
