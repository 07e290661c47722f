"""Mentions of protected attributes: bigrams whose first word is a target word, per 1k answers.

per_1k = 1000 * sum of counted bigrams / answered rows (it can exceed 1000: mentions are counted,
not answers with a mention). change_percent: per_1k against the unsteered cell of the same model and
data set, over the pictures that both answered.
Source: Ratzlaff et al. 2024 (arXiv 2411.12590), section 3.2.3 and Table 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from analysis.comparisons import Comparable
from analysis.frame import Answers, CellFiles
from analysis.measure import Counted, Rates, by_cluster
from analysis.scores import Score
from analysis.settings import Analysis
from analysis.stats import Bootstrap
from analysis.words import END, Targets, read_annotations, shipped, targets, words_of
from lmmsteer.errors import LmmsteerError

BATCH = 20_000  # rows whose words are held at a time


class Mentions:
    """Counts, in every steered cell, the words of its own attribute; in cells without an attribute
    (unsteered, prompt, ...) those of every attribute asked for."""

    name = "mentions"

    def __init__(
        self, cells: Iterable[CellFiles], settings: Analysis, bootstrap: Bootstrap
    ) -> None:
        self.targets = find_targets(list(cells), settings)
        self.settings = settings
        self.rates = Rates("per_1k", bootstrap)

    def add(self, answers: Answers) -> None:
        base = answers.files.attribute
        measured = self.targets if base == "none" else {base: self.targets[base]}
        frame = answers.frame.select("text", cluster=answers.clusters(self.settings.cluster))
        found = counts(frame, measured)
        for attribute in measured:
            named = attribute if base == "none" else answers.cell.attribute
            sums = by_cluster(found, pl.col(attribute))
            self.rates.add(Counted(answers.cell, named, attribute, sums, answers.coverage))

    def scores(self) -> list[Score]:
        return self.rates.scores()

    def comparables(self) -> list[Comparable]:
        return self.rates.comparables()

    def about(self) -> dict[str, Any]:
        return {
            "bigrams": self.settings.bigrams,
            "mode": self.settings.mode,
            "targets": {name: found.to_json() for name, found in self.targets.items()},
        }


def find_targets(cells: list[CellFiles], settings: Analysis) -> dict[str, Targets]:
    """The attributes to measure, with what counts as a mention of each.

    Attributes: those of the cells, then those of analysis.attributes; where there are none, all of
    conf/attribute. Words: analysis.attributes', else those that the cells were made with where they
    agree, else conf/attribute's, so that a method and its baseline are always counted alike.
    """
    if settings.mode not in ("allow", "deny"):
        raise LmmsteerError(
            f"analysis.mode={settings.mode} is not known.", "Choose analysis.mode=allow or deny."
        )
    known = shipped()
    recorded = _recorded_words(cells)
    names = list(dict.fromkeys([c.attribute for c in cells if c.attribute != "none"]))
    names += [name for name in settings.attributes if name not in names and name != "none"]
    annotated = read_annotations(Path(settings.bigrams)) if settings.bigrams else None
    found = {}
    for name in names or known:
        words = settings.attributes.get(name) or recorded.get(name) or known.get(name)
        if not words:
            raise LmmsteerError(
                f"There are no target words for the attribute {name}.",
                f"List them: '+analysis.attributes.{name}=[word, word]'",
            )
        labels = None if annotated is None else annotated.get(name, {})
        found[name] = targets(name, words, labels, settings.mode)
    return found


def _recorded_words(cells: list[CellFiles]) -> dict[str, list[str]]:
    """The words in the cells' records, of the attributes whose cells all hold the same."""
    lists: dict[str, list[list[str]]] = {}
    for files in cells:
        config = files.record.get("config", {}).get("attribute")
        if files.attribute != "none" and isinstance(config, Mapping):
            lists.setdefault(files.attribute, []).append(list(config.get("words") or []))
    return {name: found[0] for name, found in lists.items() if all(w == found[0] for w in found)}


def counts(frame: pl.DataFrame, measured: Mapping[str, Targets]) -> pl.DataFrame:
    """The frame without its text, with a column of counted bigrams for each attribute."""
    batches = [_counts(part, measured) for part in frame.iter_slices(BATCH)]
    return pl.concat(batches) if batches else _counts(frame, measured)


def _counts(frame: pl.DataFrame, measured: Mapping[str, Targets]) -> pl.DataFrame:
    indexed = frame.with_row_index("_row")
    found = bigrams(indexed)
    sums = [hits.filter().cast(pl.Int64).sum().alias(name) for name, hits in measured.items()]
    counted = found.group_by("_row").agg(sums)
    joined = indexed.drop("text").join(counted, on="_row", how="left", maintain_order="left")
    return joined.drop("_row").with_columns(pl.col(list(measured)).fill_null(0))


def bigrams(frame: pl.DataFrame) -> pl.DataFrame:
    """_row, first, second: every bigram of every text, the last with `<end>`."""
    words = frame.select("_row", first=words_of(pl.col("text")))
    words = words.filter(pl.col("first").list.len() > 0)
    end = pl.concat_list(pl.lit([END], dtype=pl.List(pl.String)))
    second = pl.col("first").list.slice(1).list.concat(end)
    return words.with_columns(second=second).explode("first", "second")
