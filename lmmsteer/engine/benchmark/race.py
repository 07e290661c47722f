"""The race: contenders in turn, round after round, so that a noisy machine is noisy for all."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmmsteer.engine.benchmark import memory
from lmmsteer.engine.benchmark.contenders import Contender, Run, timed
from lmmsteer.engine.benchmark.workload import Workload
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.sampling import Sampling
from lmmsteer.errors import RunFailed
from lmmsteer.models.lmm import Lmm


@dataclass
class Entry:
    """One line of the race: a contender under an edit.

    fallback: what runs after it ran out of memory. optional: the race goes on without it where it
    fails; failed: why it did.
    """

    label: str
    contender: Contender
    edit: Edit
    fallback: Callable[[], Contender | None] = lambda: None
    optional: bool = False
    failed: str = ""


def race(
    lmm: Lmm, work: Workload, entries: Sequence[Entry], repeats: int, say: Callable[[str], None]
) -> dict[str, list[Run]]:
    """Every entry once a round, `repeats` rounds. Result: the runs of each, in order."""
    runs: dict[str, list[Run]] = {entry.label: [] for entry in entries}
    for number in range(repeats):
        for entry in entries:
            torch.manual_seed(number)
            run = _tried(lmm, work, entry)
            if run is None:
                say(f"round {number + 1} of {repeats}: {entry.label} failed: {entry.failed}")
                continue
            runs[entry.label].append(run)
            rate = work.tokens / run.seconds
            say(f"round {number + 1} of {repeats}: {entry.label} {rate:,.1f} tokens/s")
    return runs


def _tried(lmm: Lmm, work: Workload, entry: Entry) -> Run | None:
    if entry.failed:
        return None
    try:
        return _run(lmm, work, entry)
    except (RuntimeError, RunFailed) as error:
        if not entry.optional:
            raise
        entry.failed = str(error).split("\n")[0]
    return None


def _run(lmm: Lmm, work: Workload, entry: Entry) -> Run:
    """One run; out of memory, the next smaller choice takes over."""
    while True:
        try:
            return timed(entry.contender, lmm, work, entry.edit)
        except Exception as error:
            if not memory.ran_out(error):
                raise
        smaller = entry.fallback()
        if smaller is None:
            raise RunFailed(
                f"{entry.label} does not fit into this device's memory.",
                "Use fewer slots (slots=N) or smaller batches (batch_sizes=N)",
            )
        entry.contender = smaller


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> dict[str, float]:
    """How many times as fast ours is, pair by pair: runs of the same round."""
    return spread([b.seconds / a.seconds for a, b in zip(ours, theirs, strict=True)])


def equal_answers(
    lmm: Lmm,
    work: Workload,
    pair: tuple[Contender, Contender],
    edit: Edit,
    limits: tuple[int, int],
) -> dict[str, Any]:
    """Greedy answers of two contenders on some rows, one seed of each. limits: rows, tokens."""
    rows, longest = limits
    greedy = Sampling(temperature=0.0, max_new_tokens=longest)
    seed = work.requests[0].seed
    kept = [at for at, request in enumerate(work.requests) if request.seed == seed][:rows]
    part = work.only(kept).part(len(kept), longest, greedy)
    mine, theirs = (timed(one, lmm, part, edit).answers.tokens for one in pair)
    same = sum(a == b for a, b in zip(mine, theirs, strict=True))
    agreed = sum(_agreed(a, b) for a, b in zip(mine, theirs, strict=True))
    return {
        "rows": len(kept),
        "equal_rows": same,
        "distinct_answers": len({tuple(tokens) for tokens in theirs}),
        "tokens": part.tokens,
        "tokens_before_first_difference": agreed,
    }


def _agreed(mine: Sequence[int], theirs: Sequence[int]) -> int:
    unequal = (at for at, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
    return next(unequal, len(mine))


def random_directions(lmm: Lmm, count: int, seed: int) -> Tensor:
    """Unit directions of the residual stream. [count, d_model] float32."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, lmm.d_model, generator=generator)
    return torch.nn.functional.normalize(drawn, dim=-1)
