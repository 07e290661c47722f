"""What the benchmark found, as one JSON object and as a table on screen."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import lmmsteer
from lmmsteer.engine.benchmark.contenders import Contender, Run
from lmmsteer.engine.benchmark.race import ratio, spread
from lmmsteer.engine.benchmark.workload import Workload
from lmmsteer.models.lmm import Lmm


def machine(lmm: Lmm) -> dict[str, Any]:
    """Card, versions, threads, load: what a figure means nothing without."""
    return {
        **lmm.device.versions(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()),
        "lmmsteer": lmmsteer.__version__,
        "command": " ".join([_program(), *sys.argv[1:]]),
    }


def _program() -> str:
    name = os.path.basename(sys.argv[0])
    return "python -m lmmsteer.engine.bench" if name == "bench.py" else name


def model(lmm: Lmm) -> dict[str, Any]:
    """Which model was raced; a random one has the shape's name."""
    return {
        "name": lmm.name,
        "family": lmm.family.name,
        "parameters": sum(weight.numel() for weight in lmm.model.parameters()),
        "layers": lmm.n_layers,
        "d_model": lmm.d_model,
        "dtype": str(lmm.dtype).removeprefix("torch."),
    }


def workload(work: Workload) -> dict[str, Any]:
    """How many rows and useful tokens."""
    return {
        "pictures": len(work.pictures),
        "rows": len(work.requests),
        "rows_per_picture": work.rows_per_picture,
        "tokens": work.tokens,
        "mean_length": work.tokens / len(work.lengths),
        "longest": max(work.lengths),
        "temperature": work.sampling.temperature,
        "top_k": work.sampling.top_k,
    }


def entry(contender: Contender, runs: Sequence[Run], work: Workload) -> dict[str, Any]:
    """One line of the race.

    wait_share: of the seconds, the device waited for the host. held_bytes: in use before the run
    began, the model's weights and what other contenders keep.
    """
    last = runs[-1].answers
    firsts = [r.answers.first_token_seconds for r in runs]
    waits = [r.answers.wait_seconds for r in runs]
    return {
        "remark": contender.remark,
        "seconds": spread([run.seconds for run in runs]),
        "tokens_per_second": spread([work.tokens / run.seconds for run in runs]),
        "responses_per_second": spread([len(work.requests) / run.seconds for run in runs]),
        "tokens_per_cpu_second": spread([work.tokens / run.cpu_seconds for run in runs]),
        "first_token_seconds": _median(firsts),
        "wait_share": _median(
            [None if w is None else w / r.seconds for w, r in zip(waits, runs, strict=True)]
        ),
        "peak_bytes": max(run.peak_bytes for run in runs),
        "held_bytes": runs[-1].held_bytes,
        "stats": _plain(last.stats),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _plain(stats: Mapping[str, Any]) -> dict[str, Any]:
    simple = (int, float, str, bool, type(None))
    return {name: v if isinstance(v, simple) else str(v) for name, v in stats.items()}


def ratios(runs: Mapping[str, Sequence[Run]], ours: str, others: Sequence[str]) -> dict[str, Any]:
    """How many times as fast ours is as each other, pair by pair."""
    return {name: ratio(runs[ours], runs[name]) for name in others}


def table(found: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [*_head(found), "", *_columns(_race_rows(found)), ""]
    if check := found["check"]:
        lines.append(
            f"greedy answers: {check['equal_rows']} of {check['rows']} rows equal to hooks'"
            f" ({check['distinct_answers']} of them distinct,"
            f" {check['tokens_before_first_difference']} of {check['tokens']} tokens before a"
            " first difference)"
        )
    lines += [f"{name}: not run: {why}" for name, why in found["not_run"].items()]
    for name, tries in found["sweep"].items():
        seen = ", ".join(_tried(one) for one in tries)
        lines.append(f"{name}, rows per batch (predicted tokens/s): {seen}")
    return "\n".join([*lines, *_overhead(found["overhead"]), *_roofline(found["roofline"])])


def _head(found: Mapping[str, Any]) -> list[str]:
    m, w, at = found["model"], found["workload"], found["machine"]
    load = at["load_average"][0]
    return [
        f"{m['name']}: {m['parameters'] / 1e6:,.1f} M parameters, {m['layers']} layers, "
        f"d_model {m['d_model']}, {m['dtype']}",
        f"{at['card']}, {at['threads']} threads, load {load:.1f}, torch {at['torch']}, "
        f"transformers {at['transformers']}, lmmsteer {at['lmmsteer']}",
        f"{w['pictures']} pictures x {w['rows_per_picture']} rows, {w['tokens']:,} useful tokens "
        f"(mean {w['mean_length']:.0f}, longest {w['longest']}), {found['repeats']} rounds",
    ]


HEADER = (
    "contender",
    "tokens/s",
    "min-max",
    "per CPU s",
    "resp/s",
    "ours is",
    "min-max",
    "first token",
    "waiting",
    "peak GiB",
)


def _race_rows(found: Mapping[str, Any]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [HEADER]
    for name, line in found["contenders"].items():
        rate, times = line["tokens_per_second"], found["ratios"].get(name)
        first, wait = line["first_token_seconds"], line["wait_share"]
        rows.append(
            (
                name,
                f"{rate['median']:,.1f}",
                f"{rate['min']:,.1f}-{rate['max']:,.1f}",
                f"{line['tokens_per_cpu_second']['median']:,.1f}",
                f"{line['responses_per_second']['median']:.2f}",
                f"{times['median']:.2f}x" if times else "",
                f"{times['min']:.2f}-{times['max']:.2f}" if times else "",
                "?" if first is None else f"{first:.2f} s",
                "?" if wait is None else f"{wait:.1%}",
                f"{line['peak_bytes'] / 2**30:.2f}",
            )
        )
    return rows


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _tried(one: Mapping[str, Any]) -> str:
    name = f"{one['rows']} by {one['by']}"
    if one["failed"]:
        return f"{name} {one['failed']}"
    return f"{name} {one['tokens_per_second']:,.1f}"


def _overhead(overhead: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {times['median'] - 1:+.1%} time against unsteered "
        f"[{times['min'] - 1:+.1%}, {times['max'] - 1:+.1%}]"
        for name, times in overhead.items()
    ]


def _roofline(roofline: Mapping[str, Any]) -> list[str]:
    rates, seconds = roofline["rates"], roofline["seconds"]
    return [
        f"serial roofline: {seconds['total']:.3g} s (prefill {seconds['prefill']:.3g}, weights "
        f"{seconds['weights']:.3g}, keys and values {seconds['kv']:.3g}) at "
        f"{rates['bytes_per_second'] / 1e9:,.0f} GB/s and "
        f"{rates['flop_per_second'] / 1e12:,.3f} TFLOP/s "
        f"({rates['flop_per_second_at_slots'] / 1e12:,.3f} at {roofline['slots']} rows)",
        f"ours: {roofline['share']:.1%} of the roofline, end to end",
    ]
