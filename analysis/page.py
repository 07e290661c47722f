"""The page: what stands in report.html, put together from scores, plots and the gallery's rows.

What a model said is escaped; nothing in it is markup. The page opens from disk without a network
and holds all but the gallery's later rows, which are files beside it (gallery_files).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis import findings, gallery, gallery_files, plot, tables
from analysis.frame import Output
from analysis.marks import Marks
from analysis.tables import Table
from analysis.words import Targets

TEMPLATES = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True)
class Figure:
    """A plot as SVG, and the same in words for those who cannot see it."""

    svg: str
    words: str

    @property
    def inline(self) -> Markup:
        return inline(self.svg)


@dataclass(frozen=True)
class Gallery:
    """Rows for the page. picture: of a row, as a data URI; asked: how many rows were asked for."""

    items: Sequence[gallery.Item]
    targets: Mapping[str, Targets]
    picture: gallery_files.Picture
    asked: int


@dataclass(frozen=True)
class Contents:
    """What the page shows. scores: {analysis: long table}; about: the footer of mentions."""

    scores: Mapping[str, pl.DataFrame]
    about: Mapping[str, Any]
    tables: Sequence[Table]
    plots: Mapping[str, Figure]
    gallery: Gallery


def render(output: Output, contents: Contents) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html.jinja").render(
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        facts=_facts(output, contents.about),
        plots={name: contents.plots.get(name) for name in ("plot", "sentiment")},
        **_results(contents),
        **_gallery(contents.gallery),
        notes=contents.about["notes"],
        settings=contents.about["settings"],
        targets={name: sorted(t.words | t.pairs) for name, t in contents.gallery.targets.items()},
        cells=_cells(output, contents.about),
        licences=licences(output),
    )


def _results(contents: Contents) -> dict[str, Any]:
    mentions, occupation = contents.scores["mentions"], contents.scores.get("occupation")
    found = findings.findings(mentions, occupation)
    heads = tables.headline(mentions, occupation)
    return {
        "findings": found,
        "story": findings.story(found, mentions),
        "headline": heads,
        "tables": [table for table in contents.tables if table not in heads],
    }


def _gallery(shown: Gallery) -> dict[str, Any]:
    """The first page of rows as HTML; what the form above them offers."""
    attributes = list(shown.targets)
    methods = [answer.method for item in shown.items for answer in item.answers]
    return {
        "items": shown.items[: gallery_files.PAGE],
        "picture": shown.picture,
        "mark": Marks(shown.targets).html,
        "candidates": gallery.compared(shown.asked),
        "attributes": attributes,
        "prompts": gallery_files.prompts(shown.items),
        "places": [name for name, _, _ in gallery_files.places(shown.items, attributes)],
        "labels": gallery_files.labels(shown.items),
        "methods": list(dict.fromkeys(methods)),
    }


def _facts(output: Output, about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers at the head of the page."""
    answered, failed = (sum(cell[key] for cell in about["cells"]) for key in ("answered", "failed"))
    datasets = {files.cell.dataset for files in output.cells}
    pictures = sum(output.totals(name).get("images", 0) for name in datasets)
    facts = [(pictures, "pictures"), (answered, "answers"), (failed, "failed rows")]
    return [(f"{number:,}", unit) for number, unit in facts if number]


def inline(svg: str) -> Markup:
    """An SVG for an HTML page: scales with it, and takes its text colour from it."""
    head, body = re.match(r"(<svg[^>]*>)(.*)", svg, re.DOTALL).groups()  # type: ignore[union-attr]
    head = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", head)
    head = re.sub(r'\s(width|height|role|aria-[a-z]+)="[^"]*"', "", head)
    body = body.replace(plot.INK, "currentColor")
    return Markup(head.replace("<svg", '<svg aria-hidden="true"') + body)


def licences(output: Output) -> dict[str, str]:
    """The licence that each data set's config names."""
    found = {}
    for files in output.cells:
        dataset = files.record.get("config", {}).get("dataset")
        licence = dataset.get("licence") if isinstance(dataset, Mapping) else None
        if licence:
            found[files.cell.dataset] = str(licence)
    return found


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
