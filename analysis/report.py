"""out/report: the tables, the plots, and one page that shows what was found.

Writes out/report/{report.html,tables.md,tables.tex,tables.parquet}, gallery/ beside the page, the
plots (plot.svg, sentiment.svg, and both as PNG), and the data-set card out/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis import (
    card,
    contrasts,
    gallery,
    gallery_files,
    measured,
    page,
    plot,
    plot_groups,
    render,
    scores,
    tables,
)
from analysis.frame import Output
from analysis.measures import MEASURES
from analysis.page import Figure
from analysis.pictures import Thumbnails
from analysis.settings import Report
from analysis.tables import Table
from analysis.words import Targets
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import Store

FOLDER = "report"


@dataclass(frozen=True)
class Scores:
    """The score tables that are there, what their footers say, and methods held against methods."""

    tables: dict[str, pl.DataFrame]
    about: dict[str, dict[str, Any]]
    compared: dict[str, pl.DataFrame]

    @property
    def targets(self) -> dict[str, Targets]:
        """What the mentions were counted with, so that the page marks what was counted."""
        listed = self.about.get("mentions", {}).get("mentions", {}).get("targets", {})
        return {name: Targets.from_json(record) for name, record in listed.items()}


def write(store: Store, settings: Report | None = None) -> list[str]:
    """Write the report of an output folder from its scores; returns the files written.

    Raises: LmmsteerError where there are no scores, or for a key out of its range.
    """
    settings = settings or Report()
    _refuse(settings)
    found, output = read_scores(store), Output(store)
    built = [*tables.build(found.tables), *measured.build(found.tables), *_contrasts(found)]
    figures, files = _plots(found)
    files["tables.md"] = "\n".join(map(render.markdown, built)).encode()
    files["tables.tex"] = "\n".join(map(render.latex, built)).encode()
    items = gallery.build(output, found.targets, settings.gallery) if settings.gallery else []
    with _thumbnails(store, items, settings.pixels) as picture:
        shown = page.Gallery(items, found.targets, picture, settings.gallery)
        about = found.about["mentions"]
        contents = page.Contents(found.tables, about, built, figures, shown)
        rows = gallery_files.write(store, f"{FOLDER}/gallery", items, found.targets, picture)
        files = {"report.html": page.render(output, contents).encode(), **files}
    for name, data in files.items():
        store.write_bytes(f"{FOLDER}/{name}", data, overwrite=True)
    everything = scores.write(store, f"{FOLDER}/tables.parquet", _long(found), {})
    carded = card.write(output, about, page.licences(output))
    return [*(f"{FOLDER}/{name}" for name in files), everything, *rows[:1], *carded]


def _refuse(settings: Report) -> None:
    for key, least in (("gallery", 0), ("pixels", 16)):
        if getattr(settings, key) < least:
            raise LmmsteerError(
                f"report.{key}={getattr(settings, key)} is too small.", f"Give {least} or more."
            )


@contextmanager
def _thumbnails(
    store: Store, items: Sequence[gallery.Item], pixels: int
) -> Iterator[gallery_files.Picture]:
    """The rows' pictures, small, while the report is written."""
    with ExitStack() as stack:
        made = {
            dataset: stack.enter_context(Thumbnails(store, dataset, wanted, pixels))
            for dataset, wanted in gallery.image_ids(items).items()
        }
        yield lambda item: made[item.dataset].get(item.image_id)


def _long(found: Scores) -> pl.DataFrame:
    """What the tables are made of: the scores of every analysis, under its name."""
    named = [
        table.select(pl.lit(name).alias("analysis"), pl.all())
        for name, table in found.tables.items()
    ]
    return pl.concat(named)


def _contrasts(found: Scores) -> list[Table]:
    settings = found.about["mentions"].get("settings", {})
    built = [
        contrasts.trade_off(found.tables),
        contrasts.differences(found.compared, str(settings.get("correction", "none"))),
    ]
    return [table for table in built if table.rows]


def headline(store: Store) -> str:
    """The headline table as plain text, for the terminal."""
    mentions = read_scores(store).tables
    built = tables.headline(mentions["mentions"], mentions.get("occupation"))
    return "\n\n".join(render.plain(table) for table in built)


def read_scores(store: Store) -> Scores:
    """The scores of every analysis that was run."""
    names = dict.fromkeys([*MEASURES, *measured.TITLES])
    there = {name: found for name in names if (found := scores.read(store, name))}
    if "mentions" not in there:
        raise LmmsteerError(
            f"{store.root} has no scores of mentions.",
            f"Make them: lmmsteer analyze out={store.root}",
        )
    compared = {name: read for name in there if (read := scores.read(store, f"comparisons/{name}"))}
    return Scores(
        {name: frame for name, (frame, _) in there.items()},
        {name: about for name, (_, about) in there.items()},
        {name: frame for name, (frame, _) in compared.items()},
    )


def _plots(found: Scores) -> tuple[dict[str, Figure], dict[str, bytes]]:
    """The plots for the page, and the same as files."""
    charts: dict[str, tuple[plot.Chart | None, str]] = {}
    if "occupation" in found.tables:
        both = found.tables["mentions"], found.tables["occupation"]
        charts["plot"] = plot.chart(*both), plot.summary(*both)
    if "sentiment" in found.tables:
        sentiment = found.tables["sentiment"]
        charts["sentiment"] = plot_groups.chart(sentiment), plot_groups.summary(sentiment)
    figures: dict[str, Figure] = {}
    files: dict[str, bytes] = {}
    for name, (chart, words) in charts.items():
        if chart is not None:
            figures[name] = Figure(plot.svg(chart), words)
            files[f"{name}.svg"] = figures[name].svg.encode()
            files[f"{name}.png"] = plot.png(chart)
    return figures, files
