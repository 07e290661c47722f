"""What is raced: our engines behind one interface, and what one run of a contender is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

from lmmsteer.engine import shared as engine
from lmmsteer.engine.benchmark import memory
from lmmsteer.engine.benchmark.workload import Workload, batches
from lmmsteer.engine.edit import Edit, ResidualEdit
from lmmsteer.engine.reference import Reference
from lmmsteer.errors import RunFailed
from lmmsteer.models.lmm import Lmm


@dataclass
class Answers:
    """Token ids of every row, in the rows' order, and what the contender says of its run.

    first_token_seconds: mean over the rows, from the start of the run. wait_seconds: the device
    had nothing to do, since the host was preparing pictures. clock: seconds and CPU seconds without
    the start and the end of the contender's own machinery. None: not known, or no such difference.
    """

    tokens: list[list[int]]
    clock: tuple[float, float] | None = None
    first_token_seconds: float | None = None
    wait_seconds: float | None = None
    stats: dict[str, Any] = field(default_factory=dict)


class Contender(Protocol):
    """A way to answer a workload under steering."""

    name: str
    remark: str

    def answer(self, lmm: Lmm, work: Workload, edit: Edit) -> Answers: ...


class Shared:
    """Our engine; one instance for all rounds, so that what it captures once is kept."""

    name = "shared"
    remark = "lmmsteer's engine"

    def __init__(self, slots: int | None = None, strict: bool = False) -> None:
        self.engine = engine.Shared(slots=slots, strict=strict)

    def answer(self, lmm: Lmm, work: Workload, edit: Edit) -> Answers:
        self.engine.cache.clear()  # Features kept from the last round would be a free lunch.
        responses = self.engine.generate(
            lmm, work.requests, work.pictures, edit, work.sampling, lengths=work.lengths
        )
        tokens = [_tokens(response) for response in responses]
        stats = asdict(self.engine.stats)
        return Answers(tokens, None, stats.get("first_token_seconds"), stats.get("wait"), stats)


class ReferenceEngine:
    """Our reference engine: transformers' generate with a cache of ours, batches by prompt."""

    name = "reference"
    remark = "lmmsteer's engine=reference"

    def __init__(self, slots: int | None = None, strict: bool = False) -> None:
        self.slots = slots or 15

    def answer(self, lmm: Lmm, work: Workload, edit: Edit) -> Answers:
        endless = replace(lmm, eos_ids=())
        tokens: list[list[int]] = [[] for _ in work.requests]
        for rows in batches(work, self.slots, "prompt"):
            longest = max(work.lengths[row] for row in rows)
            sampling = replace(work.sampling, max_new_tokens=longest)
            engine, requests = Reference(self.slots), [work.requests[row] for row in rows]
            found = engine.generate(
                endless, requests, work.pictures, _of_rows(edit, rows), sampling
            )
            for row, response in zip(rows, found, strict=True):
                tokens[row] = _tokens(response)[: work.lengths[row]]
        return Answers(tokens, stats={"slots": self.slots})


def _of_rows(edit: Edit, rows: Sequence[int]) -> Edit:
    """The edit of some of the rows."""
    residual = edit.residual
    if residual is None or residual.of is None:
        return edit
    return replace(edit, residual=replace(residual, of=tuple(residual.of[row] for row in rows)))


def _tokens(response: Any) -> list[int]:
    if response.token_ids is None:
        raise RunFailed(f"A row could not be answered: {response.error}", "See docs/performance.md")
    return list(response.token_ids)


def edit_of(directions: Tensor | None) -> Edit:
    """One set of directions for all rows, or nothing. directions: [k, d_model]."""
    return Edit() if directions is None else Edit(residual=ResidualEdit(directions))


def edit_by_picture(directions: Tensor, work: Workload) -> Edit:
    """One direction for each picture. directions: [pictures, d_model]."""
    places = {image_id: at for at, image_id in enumerate(work.pictures)}
    of = tuple(places[request.image_id] for request in work.requests)
    return Edit(residual=ResidualEdit(directions.unsqueeze(1), of=of))


@dataclass(frozen=True)
class Run:
    """One timed run. seconds: wall clock; cpu_seconds: of this process, all threads."""

    answers: Answers
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    held_bytes: int = 0


def timed(contender: Contender, lmm: Lmm, work: Workload, edit: Edit) -> Run:
    """Answer a workload and measure it.

    Raises: RunFailed where an answer is not as long as the trace says.
    """
    lmm.device.synchronize()
    memory.reset_peak(lmm.device)
    held = memory.held(lmm.device)
    wall, cpu = time.perf_counter(), time.process_time()
    answers = contender.answer(lmm, work, edit)
    lmm.device.synchronize()
    passed = time.perf_counter() - wall, time.process_time() - cpu
    run = Run(answers, *(answers.clock or passed), memory.peak(lmm.device), held)
    for row in _wrong(answers, work):
        raise RunFailed(
            f"{contender.name} answered row {row} with {len(answers.tokens[row])} tokens where "
            f"{work.lengths[row]} were asked for.",
            "Its time cannot be compared; this is a fault of the benchmark or the engine",
        )
    return run


def _wrong(answers: Answers, work: Workload) -> Iterator[int]:
    pairs = zip(answers.tokens, work.lengths, strict=True)
    return (row for row, (tokens, length) in enumerate(pairs) if len(tokens) != length)
