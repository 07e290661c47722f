"""The most frequent bigrams of target words, for people to label: out/scores/bigrams.csv.

Columns bigram, attribute, freq, label (related, unrelated, or empty). Labels that are there
already, in analysis.bigrams or in the file itself, are kept; the labelled file goes back in as
analysis.bigrams, where analysis.mode says how it counts.
Source: Ratzlaff et al. 2024 (arXiv 2411.12590), section 3.2.3.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from analysis.answers import batches
from analysis.frame import Answers, Output
from analysis.mentions import BATCH, bigrams, find_targets
from analysis.settings import Analysis
from analysis.words import Targets, read_annotations
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import Store

NAME = "annotate"
PATH = "scores/bigrams.csv"
COLUMNS = ("bigram", "attribute", "freq", "label")

Labels = dict[str, dict[str, str]]


@dataclass
class Annotating(Analysis):
    """The keys of every analysis. top: unlabelled bigrams of each attribute to write."""

    top: int = 500


def run(store: Store, settings: Annotating, say: Callable[[str], None] = print) -> list[str]:
    """Count the bigrams of all answers, write the file and return its path below the store.

    Raises: LmmsteerError for a partial output without allow_partial, or a file of labels that is
    not what it should be.
    """
    if settings.top < 1:
        raise LmmsteerError(f"analysis.top={settings.top} is too small.", "Give at least 1.")
    output = Output(store)
    if not settings.allow_partial:
        output.refuse_partial()
    cells = [files for files in output.cells if files.parts]
    targets = find_targets(cells, replace(settings, bigrams=None, mode="deny"))
    freqs: dict[str, Counter[str]] = defaultdict(Counter)
    for files in cells:
        base = files.attribute
        measured = targets if base == "none" else {base: targets[base]}
        for answers in batches(output, files):
            for name, found in counted(answers, measured):
                freqs[name].update(found)
    labels = _labels(store, settings)
    rows = [row for name in targets for row in _rows(name, freqs[name], labels, settings.top)]
    _write(store, rows)
    empty = sum(not row[3] for row in rows)
    say(f"{len(rows):,} bigrams, {empty:,} of them to be labelled related or unrelated")
    say(f"then: lmmsteer analyze analysis.bigrams={store.root}/{PATH} out={store.root}")
    return [PATH]


def counted(
    answers: Answers, measured: Mapping[str, Targets]
) -> Iterator[tuple[str, dict[str, int]]]:
    """(attribute, {bigram: how often}) of the answers, some at a time."""
    for some in answers.frame.select("text").iter_slices(BATCH):
        pairs = bigrams(some.with_row_index("_row"))
        for name, target in measured.items():
            joined = pl.concat_str("first", "second", separator=" ").alias("bigram")
            found = pairs.filter(target.filter()).group_by(joined).len()
            yield name, dict(found.iter_rows())


def _rows(
    name: str, freqs: Mapping[str, int], labels: Labels, top: int
) -> list[tuple[str, str, int, str]]:
    """The labelled bigrams and the most frequent others, by falling frequency."""
    given = {bigram: label for bigram, label in labels.get(name, {}).items() if label}
    ranked = sorted(freqs, key=lambda bigram: (-freqs[bigram], bigram))
    others = [bigram for bigram in ranked if bigram not in given][:top]
    rows = [(bigram, name, freqs.get(bigram, 0), given.get(bigram, "")) for bigram in others]
    rows += [(bigram, name, freqs.get(bigram, 0), label) for bigram, label in given.items()]
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def _labels(store: Store, settings: Annotating) -> Labels:
    """{attribute: {bigram: label}}; where two files differ, analysis.bigrams counts."""
    found: Labels = defaultdict(dict)
    sources = [] if not settings.bigrams else [Path(settings.bigrams)]
    before = store.local(PATH)
    if before is not None and store.exists(PATH):
        sources.insert(0, before)
    for source in sources:
        for name, given in read_annotations(source).items():
            found[name].update({bigram: label for bigram, label in given.items() if label})
    return found


def _write(store: Store, rows: list[tuple[str, str, int, str]]) -> None:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    store.write_bytes(PATH, sink.getvalue().encode(), overwrite=True)
