"""One page that shows what was found: headline table, plot, sentiment, gallery, how it was made.

Writes out/report/{report.html,tables.md,tables.tex,plot.svg}. The page holds everything it shows:
it opens from disk, without a network. What a model said is escaped; nothing in it is markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis import contrasts, gallery, plot, render, scores, tables, thumbnail
from analysis.frame import Output
from analysis.measures import MEASURES
from analysis.settings import Report
from analysis.tables import Table
from analysis.words import Targets
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import Store

FOLDER = "report"
TEMPLATES = Path(__file__).resolve().parent / "templates"


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


@dataclass(frozen=True)
class Effect:
    """The change of one attribute's mentions. `size`: percent of a bar; `clear`: 0 is outside."""

    attribute: str
    text: str
    size: float
    up: bool
    clear: bool

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Effect:
        clear = row["low"] is not None and (row["high"] < 0 or row["low"] > 0)
        text = tables.percent(dict(row))
        size = min(100.0, abs(row["value"]))
        return cls(tables.spoken(row["attribute"]), text, size, row["value"] > 0, clear)


@dataclass(frozen=True)
class Finding:
    """What one method did to mentions, and to occupation mentions."""

    place: str
    method: str
    effects: list[Effect]
    occupation: str


def write(store: Store, settings: Report | None = None) -> list[str]:
    """Write the report of an output folder from its scores; returns the files written.

    Raises: LmmsteerError where there are no scores.
    """
    settings = settings or Report()
    found = read_scores(store)
    output = Output(store)
    built = [*tables.build(found.tables), *_contrasts(found)]
    drawing = _plot(found)
    page = _page(output, found, built, drawing, settings)
    files = {
        "report.html": page,
        "tables.md": "\n".join(map(render.markdown, built)),
        "tables.tex": "\n".join(map(render.latex, built)),
    }
    if drawing:
        files["plot.svg"] = drawing
    for name, text in files.items():
        store.write_bytes(f"{FOLDER}/{name}", text.encode(), overwrite=True)
    everything = scores.write(store, f"{FOLDER}/tables.parquet", _long(found), {})
    return [*(f"{FOLDER}/{name}" for name in files), everything]


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
    there = {name: found for name in MEASURES if (found := scores.read(store, name))}
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


def _plot(found: Scores) -> str | None:
    if "occupation" not in found.tables:
        return None
    return plot.svg(found.tables["mentions"], found.tables["occupation"])


def _page(
    output: Output,
    found: Scores,
    built: list[Table],
    drawing: str | None,
    settings: Report,
) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    items = gallery.build(output, found.targets, settings.gallery)
    _add_pictures(output, items, settings.pixels)
    heads = tables.headline(found.tables["mentions"], found.tables.get("occupation"))
    rest = [table for table in built if table not in heads]
    about = found.about["mentions"]
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html.jinja").render(
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        facts=_facts(output, found),
        findings=findings(found.tables["mentions"], found.tables.get("occupation")),
        headline=heads,
        tables=rest,
        plot=inline(drawing) if drawing else None,
        plot_words=plot.summary(*_both(found)) if drawing else "",
        items=items,
        candidates=gallery.CANDIDATES,
        attributes=list(found.targets),
        prompts=_prompts(items),
        places=list(dict.fromkeys(f"{item.model} on {item.dataset}" for item in items)),
        notes=about["notes"],
        settings=about["settings"],
        targets={name: sorted(t.words | t.pairs) for name, t in found.targets.items()},
        cells=_cells(output, about),
    )


def _both(found: Scores) -> tuple[pl.DataFrame, pl.DataFrame]:
    return found.tables["mentions"], found.tables["occupation"]


def _add_pictures(output: Output, items: Iterable[gallery.Item], pixels: int) -> None:
    items = list(items)
    for dataset, wanted in gallery.image_ids(items).items():
        pictures = gallery.pictures_of(output, dataset, wanted)
        small = {name: thumbnail.data_uri(data, pixels) for name, data in pictures.items()}
        for item in items:
            if item.dataset == dataset:
                item.picture = small.get(item.image_id)


def _prompts(items: Iterable[gallery.Item]) -> dict[str, str]:
    return {item.prompt_id: item.prompt for item in sorted(items, key=lambda i: i.prompt_id)}


def _facts(output: Output, found: Scores) -> list[tuple[str, str]]:
    """The numbers at the head of the page."""
    cells = found.about["mentions"]["cells"]
    answered, failed = (sum(cell[key] for cell in cells) for key in ("answered", "failed"))
    datasets = {files.cell.dataset for files in output.cells}
    pictures = sum(output.totals(name).get("images", 0) for name in datasets)
    facts = [(pictures, "pictures"), (answered, "answers"), (failed, "failed rows")]
    return [(f"{number:,}", unit) for number, unit in facts if number]


def findings(mentions: pl.DataFrame, occupation: pl.DataFrame | None) -> list[Finding]:
    """What each method did, against unsteered, the strongest of a model and data set first."""
    empty = mentions.clear()
    changes, costs = (
        frame.filter(pl.col("metric") == "change_percent").drop_nulls("value")
        for frame in (mentions, empty if occupation is None else occupation)
    )
    place = ("model", "dataset", "method")
    changes = changes.with_columns(mean=pl.col("value").mean().over(place)).sort(*place[:2], "mean")
    found = []
    for key, rows in changes.group_by(place, maintain_order=True):
        model, dataset, method = map(str, key)
        same = [pl.col(name) == value for name, value in zip(place, key, strict=True)]
        cost = costs.filter(*same)
        effects = [Effect.of(row) for row in rows.sort("attribute").iter_rows(named=True)]
        found.append(Finding(f"{model} on {dataset}", method, effects, _span(cost["value"])))
    return found


def _span(values: pl.Series) -> str:
    """-2% to +1%, or one of them where they are the same."""
    said = [tables.percent({"value": value}, interval=False) for value in values.sort()]
    if not said:
        return ""
    return said[0] if said[0] == said[-1] else f"{said[0]} to {said[-1]}"


def inline(svg: str) -> Markup:
    """An SVG for an HTML page: scales with it, and takes its text colour from it."""
    head, body = re.match(r"(<svg[^>]*>)(.*)", svg, re.DOTALL).groups()  # type: ignore[union-attr]
    head = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", head)
    head = re.sub(r'\s(width|height|role|aria-[a-z]+)="[^"]*"', "", head)
    body = body.replace(plot.INK, "currentColor")
    return Markup(head.replace("<svg", '<svg aria-hidden="true"') + body)


def _cells(output: Output, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is known of how each cell was made."""
    counted = {cell["cell"]: cell for cell in about["cells"]}
    return [
        {
            **counted.get(str(files.cell), {"answered": 0, "failed": 0, "coverage": None}),
            "cell": files.cell,
            "planned": files.planned,
            "verified": files.verified,
            "fingerprint": str(files.record.get("fingerprint_digest", "none"))[:12],
            "config": _json(files.record.get("config")),
            "stack": _json(files.record.get("stack")),
            "defines": _json(files.record.get("fingerprint")),
        }
        for files in output.cells
    ]


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) if value else "not recorded"
