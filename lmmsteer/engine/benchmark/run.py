"""One benchmark from options to report: warm-up, comparison of answers, sweep, race, roofline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from lmmsteer.device import detect
from lmmsteer.engine.benchmark import counting, memory, race, report, roofline, shapes, sweep
from lmmsteer.engine.benchmark.contenders import (
    Contender,
    ReferenceEngine,
    Shared,
    edit_by_picture,
    edit_of,
    timed,
)
from lmmsteer.engine.benchmark.hooked import Hooks
from lmmsteer.engine.benchmark.options import Options
from lmmsteer.engine.benchmark.paged import Paged, decoder_of
from lmmsteer.engine.benchmark.race import Entry
from lmmsteer.engine.benchmark.workload import Workload, workload
from lmmsteer.engine.edit import Edit
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.models.lmm import Lmm, load

ENGINES: dict[str, Any] = {"shared": Shared, "reference": ReferenceEngine}
SLOTS = 240  # Assumed for the roofline where the engine does not say how many it took.


def bench(options: Options, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Run a benchmark; the report as a JSON object (docs/performance.md says what is in it).

    Raises: LmmsteerError for what cannot be run, before anything is timed.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    work = workload(options)
    ours: Contender = ENGINES[options.contenders[0]](options.slots, options.strict)
    lmm = open_model(options)
    found = {"machine": report.machine(lmm), "model": report.model(lmm)}
    say(f"{lmm.name}: {found['model']['parameters'] / 1e6:,.1f} M parameters on {lmm.device.kind}")
    try:
        return {**found, **_measured(lmm, work, ours, options, say)}
    except (RuntimeError, MemoryError) as error:
        if not memory.ran_out(error):
            raise
        raise RunFailed(
            f"{lmm.name} does not fit into this device's memory with its work.",
            "Use a smaller shape, dtype=bfloat16, fewer slots or batch_sizes=1,2",
        ) from error


def open_model(options: Options) -> Lmm:
    """The model asked for: a checkpoint, or a random one of a published shape."""
    device = detect(options.device)
    if options.shape is not None:
        return shapes.build(options.shape, device, device.dtype(options.dtype), options.seed)
    name = options.model.rstrip("/").rpartition("/")[2]
    return load(
        name,
        options.model,
        options.revision,
        options.dtype,
        options.family,
        device,
        digest="not-read",  # Reading all weights twice would cost minutes and decides nothing.
    )


def _measured(
    lmm: Lmm, work: Workload, ours: Contender, options: Options, say: Callable[[str], None]
) -> dict[str, Any]:
    direction = race.random_directions(lmm, 1, options.seed) if options.steered else None
    edit = edit_of(direction)
    # Before ours is warm: what it keeps in memory must not make their batches smaller.
    Hooks(work.rows_per_picture).answer(lmm, work.part(work.rows_per_picture, 2), edit)
    others, swept, not_run = _others(lmm, work, edit, options, say)
    warmup = _warm(lmm, work, ours, edit)
    check = _check(lmm, work, ours, edit, options, say)
    variants = _variants(lmm, work, ours, options) if options.overhead else []
    entries = [Entry(ours.name, ours, edit), *others, *variants]
    runs = race.race(lmm, work, entries, options.repeats, say)
    not_run |= {entry.label: entry.failed for entry in others if entry.failed}
    raced = [entry for entry in entries[: 1 + len(others)] if not entry.failed]
    shown = {e.label: report.entry(e.contender, runs[e.label], work) for e in raced}
    return {
        "workload": report.workload(work),
        "repeats": options.repeats,
        "steered": options.steered,
        "contenders": shown,
        "ratios": report.ratios(runs, ours.name, [entry.label for entry in raced[1:]]),
        "warmup_seconds": warmup,
        "check": check,
        "sweep": swept,
        "not_run": not_run,
        "overhead": _overhead(runs, ours.name, variants, options),
        "roofline": _roofline(lmm, work, ours, shown[ours.name], options),
    }


def _warm(lmm: Lmm, work: Workload, ours: Contender, edit: Edit) -> float:
    """Seconds of a first run, in which an engine captures and allocates what it keeps."""
    rows = work.rows_per_picture if lmm.device.kind == "cpu" else len(work.requests)
    return timed(ours, lmm, work.part(rows, 4), edit).seconds


def _check(
    lmm: Lmm,
    work: Workload,
    ours: Contender,
    edit: Edit,
    options: Options,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Greedy answers of ours beside those of generate with hooks."""
    if not options.check_rows:
        return {}
    pair = (ours, Hooks(work.rows_per_picture))
    limits = (options.check_rows, options.check_tokens)
    check = race.equal_answers(lmm, work, pair, edit, limits)
    say(f"greedy answers: {check['equal_rows']} of {check['rows']} rows equal")
    return check


def _others(
    lmm: Lmm,
    work: Workload,
    edit: Edit,
    options: Options,
    say: Callable[[str], None],
) -> tuple[list[Entry], dict[str, Any], dict[str, str]]:
    """The other contenders at their best batch size, the sweeps, and who cannot run."""
    entries: list[Entry] = []
    swept: dict[str, Any] = {}
    not_run: dict[str, str] = {}
    for name in options.contenders[1:]:
        try:
            tries, entry = _at_its_best(name, lmm, work, edit, options)
        except (LmmsteerError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            if name != "generate_batch":
                raise
            not_run[name] = str(error).strip().split("\n")[0]
            continue
        entries.append(entry)
        if tries:
            swept[name] = sweep.as_rows(tries)
            say(f"{name}: swept {len(tries)} batch sizes")
    return entries, swept, not_run


def _at_its_best(
    name: str, lmm: Lmm, work: Workload, edit: Edit, options: Options
) -> tuple[list[sweep.Try], Entry]:
    if name in ENGINES:
        return [], Entry(name, ENGINES[name](options.slots, options.strict), edit)
    if name == "hooks":
        tries = sweep.hooks(lmm, work, edit, options.batch_sizes, options.sweep_tokens)
        choices: list[Contender] = [Hooks(one.rows, one.by) for one in sweep.best(tries)]
    else:
        decoder_of(lmm)
        tries = sweep.paged(lmm, work, options.batch_sizes, options.sweep_tokens)
        choices = [Paged(one.rows) for one in sweep.best(tries)]
    if not choices:
        raise RunFailed(
            f"Not even the smallest batch of {name} fits into this device's memory.",
            "Try smaller ones: batch_sizes=1,2",
        )
    left = iter(choices[1:])
    optional = name == "generate_batch"
    return tries, Entry(name, choices[0], edit, lambda: next(left, None), optional)


def _variants(lmm: Lmm, work: Workload, ours: Contender, options: Options) -> list[Entry]:
    """Ours unsteered, with one direction, with one direction for each picture."""
    one = race.random_directions(lmm, 1, options.seed)
    many = race.random_directions(lmm, len(work.pictures), options.seed)
    edits = {
        "unsteered": Edit(),
        "one direction": edit_of(one),
        "one direction per picture": edit_by_picture(many, work),
    }
    # The race itself has one of them already.
    del edits["one direction" if options.steered else "unsteered"]
    return [Entry(label, ours, edit) for label, edit in edits.items()]


def _overhead(
    runs: dict[str, Any], ours: str, variants: Sequence[Entry], options: Options
) -> dict[str, Any]:
    if not variants:
        return {}
    named = {entry.label: runs[entry.label] for entry in variants}
    named["one direction" if options.steered else "unsteered"] = runs[ours]
    plain = named.pop("unsteered")
    return {name: race.ratio(plain, steered) for name, steered in named.items()}


def _roofline(
    lmm: Lmm, work: Workload, ours: Contender, shown: dict[str, Any], options: Options
) -> dict[str, Any]:
    """The serial roofline of this workload, and what share of it ours reaches."""
    slots = int(options.slots or shown["stats"].get("slots") or SLOTS)
    costs = counting.costs(lmm, lmm.prepare(next(iter(work.pictures.values()))))
    asked, rates = counting.load(lmm, work, slots), counting.rates(lmm, slots)
    seconds = roofline.seconds(costs, asked, rates)
    return {
        "slots": slots,
        "rates": asdict(rates),
        "costs": asdict(costs),
        "prefix_tokens": asked.prefix,
        "seconds": seconds,
        "share": seconds["total"] / shown["seconds"]["median"],
    }
