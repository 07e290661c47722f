"""Runs analyses over an output folder: refuses partial cells, shows each once, writes scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Any

import polars as pl

from analysis import comparisons, scores
from analysis.answers import batches
from analysis.captions import Captions, Study
from analysis.frame import CellFiles, Output
from analysis.measure import Measure
from analysis.measures import MEASURES, Made
from analysis.settings import Analysis
from analysis.stats import Bootstrap, Permutation
from analysis.toxicity import Scorer, Toxicity
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import Store

NEEDS = {
    "cost": "It needs the logs of the run (out/logs), which say what each part took.",
    "captions": "It needs reference captions of the pictures: analysis.references=FILE, whose"
    " image_id are the manifest's, or a column `captions` (analysis.references_column) in the"
    " data set's metadata file.",
}


def run(
    store: Store,
    names: Sequence[str],
    settings: Analysis,
    say: Callable[[str], None] = print,
    scorer: Scorer | None = None,
) -> list[str]:
    """Run the named analyses (`all`: those whose inputs are there) and return the files written.

    Writes out/scores/NAME.parquet; where there are methods to compare, comparisons/NAME.parquet;
    where there are row-level results, NAME.rows.parquet. Paths are relative to the store. `say` is
    told the seed and what a reader of the scores should know. `scorer` says how toxic a text is;
    without one there is no toxicity.
    Raises: LmmsteerError for an unknown name, a partial output without allow_partial, a damaged
    part, or an analysis asked for by name whose labels are not there.
    """
    _refuse(names, settings)
    output = Output(store)
    if not settings.allow_partial:
        output.refuse_partial()
    with closing(Study(store, settings, say)) as study:
        special: dict[str, Made] = {
            Toxicity.name: partial(Toxicity, scorer=scorer),
            Captions.name: partial(Captions, study=study),
        }
        return _measured(output, names, settings, say, {**MEASURES, **special})


def _measured(
    output: Output,
    names: Sequence[str],
    settings: Analysis,
    say: Callable[[str], None],
    made: Mapping[str, Made],
) -> list[str]:
    asked = [name for name in MEASURES if name in names or "all" in names]
    cells = [files for files in output.cells if files.parts]
    bootstrap = Bootstrap(settings.bootstrap, settings.seed)
    measures = [made[name](cells, settings, bootstrap) for name in asked]
    rows = {name: scores.Rows(output.store, f"scores/{name}.rows.parquet") for name in asked}
    about = _look(output, cells, measures, rows, settings)
    for note in about["notes"]:
        say(note)
    unit = "part" if asked == ["cost"] else settings.cluster
    say(
        f"intervals: {settings.bootstrap} bootstrap resamples by {unit};"
        f" tests: {settings.permutations} permutations, {settings.correction};"
        f" seed {settings.seed}"
    )
    return _write(output.store, measures, rows, about, optional="all" in names)


def _refuse(names: Sequence[str], settings: Analysis) -> None:
    unknown = [name for name in names if name not in (*MEASURES, "all")]
    if unknown:
        raise LmmsteerError(
            f"There is no analysis {unknown[0]}.", f"Choose from: all, {', '.join(MEASURES)}"
        )
    comparisons.refuse_unknown(settings)


def _look(
    output: Output,
    cells: list[CellFiles],
    measures: list[Measure],
    rows: Mapping[str, scores.Rows],
    settings: Analysis,
) -> dict[str, Any]:
    """Show every cell to every measure; what the scores' footer says of the cells."""
    seen, notes = [], []
    for files in cells:
        answered, failed, coverage = _show(output, files, measures, rows)
        seen.append(
            {
                "cell": str(files.cell),
                "answered": answered,
                "failed": failed,
                "planned": files.planned,
                "coverage": coverage,
                "verified": files.verified,
                "parts": len(files.parts),
                "snapshot": files.snapshot,
            }
        )
        notes += _notes(files, coverage)
    missing = [files for files in output.cells if not files.parts]
    notes += [f"{files.cell}: no answers yet, left out" for files in missing]
    return {"settings": asdict(settings), "cells": seen, "notes": notes}


def _show(
    output: Output,
    files: CellFiles,
    measures: list[Measure],
    rows: Mapping[str, scores.Rows],
) -> tuple[int, int, float | None]:
    """Show a cell to every measure, batch by batch; its answered and failed rows, its coverage."""
    answered, failed, coverage = 0, 0, None
    for answers in batches(output, files):
        answered += len(answers.frame)
        failed, coverage = answers.failed, answers.coverage
        for measure in measures:
            found = measure.add(answers)
            if found is not None:
                rows[measure.name].add(found)
    return answered, failed, coverage


def _notes(files: CellFiles, coverage: float | None) -> list[str]:
    notes = []
    if not files.verified:
        notes.append(f"{files.cell}: unverified, lmmsteer did not write these answers")
    if coverage is None:
        notes.append(f"{files.cell}: no manifest, so coverage is unknown and labels are absent")
    elif coverage < 1:
        notes.append(f"{files.cell}: partial, {coverage:.1%} of the planned rows")
    return notes


def _write(
    store: Store,
    measures: list[Measure],
    rows: Mapping[str, scores.Rows],
    about: dict[str, Any],
    optional: bool,
) -> list[str]:
    paths = []
    for measure in measures:
        table = scores.table(measure.scores())
        if table.is_empty():
            if optional:
                continue
            raise LmmsteerError(
                f"No answer has what the analysis {measure.name} needs.",
                NEEDS.get(
                    measure.name,
                    "It needs labels from a manifest: see the data set's metadata file.",
                ),
            )
        record = {**about, measure.name: measure.about()}
        paths.append(scores.write(store, f"scores/{measure.name}.parquet", table, record))
        compared = _compared(measure, about["settings"])
        if not compared.is_empty():
            path = f"scores/comparisons/{measure.name}.parquet"
            paths.append(scores.write(store, path, compared, record))
        paths += rows[measure.name].write(record)
    return paths


def _compared(measure: Measure, settings: Mapping[str, Any]) -> pl.DataFrame:
    seed = settings["seed"]
    bootstrap = Bootstrap(settings["bootstrap"], seed)
    permutation = Permutation(settings["permutations"], seed)
    found = measure.comparables()
    return comparisons.table(found, bootstrap, permutation, settings["correction"])
