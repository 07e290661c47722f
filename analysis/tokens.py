"""How a method shifts what is said first: the next token's probabilities behind the prompt.

change(t) = mean over pictures and prompts of p(t | steered) - mean of p(t | unsteered), p the
softmax of the logits at the first position of the answer, before temperature, top-k and top-p.
words_change: the same of the tokens that spell an attribute's target words whole, summed. Shown are
those tokens and the `top` tokens of the largest absolute change. Pictures are what is resampled.
Methods are compared in words_percent: the same in per cent.
Answers are not read: `look` shows the models the manifest's pictures again.
Source: Ratzlaff et al. 2024 (arXiv 2411.12590), Figure 3.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl

from analysis import comparisons, scores
from analysis.comparisons import Comparable
from analysis.first_token import Opened, Seen, Shown, Summed, labels
from analysis.frame import BASELINE, CellFiles, Output, read
from analysis.mentions import find_targets
from analysis.scores import Score
from analysis.settings import Analysis
from analysis.stats import Bootstrap, Permutation, ratio
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Cell
from lmmsteer.store import Store

NAME = "tokens"


@dataclass
class TokenKeys:
    """pictures: how many of the manifest's are shown, drawn with `seed`. top: tokens that are
    listed beside the target words', by the size of their change."""

    pictures: int = 100
    top: int = 20


@dataclass
class Shifting(Analysis):
    """The keys of every analysis, and those of `tokens`."""

    tokens: TokenKeys = field(default_factory=TokenKeys)


class Models(Protocol):
    """Whoever can show pictures to the models of an output folder."""

    def open(self, folder: str) -> Any: ...

    def look(self, opened: Any, image_ids: Sequence[str], steered: bool) -> Summed: ...


def run(
    store: Store, settings: Shifting, models: Models, say: Callable[[str], None] = print
) -> list[str]:
    """Look at every cell that has a record, write the scores and return their paths.

    Raises: LmmsteerError for keys out of range, an output without records or manifest, or what
    `models` says of a model or artifact that is not there.
    """
    _check(settings)
    output = Output(store)
    cells = [files for files in output.cells if files.record]
    if not cells:
        raise LmmsteerError(
            f"{store.root} has no cell with a record (_cell.json), so no model to look at.",
            "Analyse the output that lmmsteer generate has written.",
        )
    return _Run(output, cells, settings, models, say).write()


def _check(settings: Shifting) -> None:
    for name, value in asdict(settings.tokens).items():
        if value < 1:
            raise LmmsteerError(f"analysis.tokens.{name}={value} is too small.", "Give at least 1.")


class _Run:
    def __init__(
        self,
        output: Output,
        cells: list[CellFiles],
        settings: Shifting,
        models: Models,
        say: Callable[[str], None],
    ) -> None:
        self.output, self.cells, self.settings, self.say = output, cells, settings, say
        self.models, self.keys = models, settings.tokens
        self.bootstrap = Bootstrap(settings.bootstrap, settings.seed)
        self.targets = find_targets(cells, settings)
        self.scores: list[Score] = []
        self.comparables: list[Comparable] = []
        self.about: dict[str, Any] = {}

    def write(self) -> list[str]:
        settings = self.settings
        for place in dict.fromkeys((f.cell.model, f.cell.dataset) for f in self.cells):
            self._place(*place)
        record = {
            "settings": asdict(settings),
            "notes": [],
            NAME: {
                "targets": {name: found.to_json() for name, found in self.targets.items()},
                "models": self.about,
            },
        }
        self.say(
            f"intervals: {settings.bootstrap} bootstrap resamples by {settings.cluster};"
            f" tests: {settings.permutations} permutations, {settings.correction};"
            f" seed {settings.seed}"
        )
        tables = {f"scores/{NAME}.parquet": scores.table(self.scores)}
        permutation = Permutation(settings.permutations, settings.seed)
        compared = comparisons.table(
            self.comparables, self.bootstrap, permutation, settings.correction
        )
        if not compared.is_empty():
            tables[f"scores/comparisons/{NAME}.parquet"] = compared
        store = self.output.store
        return [scores.write(store, path, made, record) for path, made in tables.items()]

    def _place(self, model: str, dataset: str) -> None:
        """All cells of a model and a data set: unsteered as the model is, then the methods."""
        image_ids, clusters, share = self._pictures(dataset)
        here = [f for f in self.cells if (f.cell.model, f.cell.dataset) == (model, dataset)]
        self.say(f"{model} {dataset}: {len(image_ids)} pictures, {len(here)} cells")
        base: Seen | None = None
        for files in sorted(here, key=lambda f: f.cell.method != BASELINE):
            opened = self.models.open(files.cell.folder)
            about = (labels(opened.texts), share, self.bootstrap)
            if base is None:
                base = self._seen(opened, image_ids, clusters, steered=False)
                plain = Cell(model, BASELINE, "none", dataset)
                self._baseline(Shown(plain, base, None, *about), opened)
            if files.cell.method != BASELINE:
                seen = self._seen(opened, image_ids, clusters, steered=True)
                self._steered(files, Shown(files.cell, seen, base, *about), opened)
                self.say(f"{files.cell}: seen")

    def _seen(
        self, opened: Opened, image_ids: Sequence[str], clusters: Sequence[int], *, steered: bool
    ) -> Seen:
        seen = Seen.made(self.models.look(opened, image_ids, steered), clusters)
        if not seen.n:
            raise LmmsteerError(
                f"None of the {len(image_ids)} pictures could be shown.",
                "Show others: analysis.seed=1, or more: analysis.tokens.pictures=1000",
            )
        return seen

    def _pictures(self, dataset: str) -> tuple[list[str], list[int], float]:
        """Ids of the pictures that are shown, the cluster of each, and their share of all."""
        store = self.output.store
        folder = f"manifest/dataset={dataset}/rows"
        paths = [path for path in store.list(folder) if path.endswith(".parquet")]
        if not paths:
            raise LmmsteerError(
                f"{store.root} has no manifest of {dataset}, whose pictures would be shown.",
                f"Bring back {store.root}/manifest/dataset={dataset}",
            )
        rows = read(store, paths, ("image_id", "group_id"))
        rows = rows.unique("image_id", keep="first").sort("image_id")
        count = min(self.keys.pictures, len(rows))
        drawn = sorted(random.Random(self.settings.seed).sample(range(len(rows)), count))
        found = rows[drawn]
        by_set = self.settings.cluster == "group_id"
        names = found.select(pl.coalesce("group_id", "image_id") if by_set else "image_id")
        places = {name: at for at, name in enumerate(dict.fromkeys(names.to_series()))}
        clusters = [places[name] for name in names.to_series()]
        return found["image_id"].to_list(), clusters, count / len(rows)

    def _baseline(self, shown: Shown, opened: Opened) -> None:
        named = {}
        for name, targets in self.targets.items():
            tokens = opened.spelled(sorted(targets.words))
            self._words(shown, name, name, tokens)
            self.scores += [s for token in tokens for s in shown.of_token(name, token)]
            named[name] = [shown.labels[token] for token in tokens]
        place = f"{shown.cell.model} {shown.cell.dataset}"
        self.about[place] = {"pictures": len(shown.seen.of), "tokens": named}

    def _steered(self, files: CellFiles, shown: Shown, opened: Opened) -> None:
        """Of a cell's own attribute, or of all where it has none; then the most changed tokens."""
        own, cell = files.attribute, files.cell
        listed: dict[str, list[int]] = {}
        for base in self.targets if own == "none" else [own]:
            name = base if own == "none" else cell.attribute
            listed[name] = opened.spelled(sorted(self.targets[base].words))
            self._words(shown, name, base, listed[name])
        size = np.abs(shown.change)
        kept = listed.setdefault(cell.attribute, [])
        top = np.argsort(-size, kind="stable")[: self.keys.top].tolist()
        kept += [token for token in top if token not in kept]
        for name, tokens in listed.items():
            for token in sorted(tokens, key=lambda token: (-size[token], token)):
                self.scores += shown.of_token(name, token)

    def _words(self, shown: Shown, name: str, base: str, tokens: list[int]) -> None:
        """Of all tokens of an attribute's words together. base: it, without what a sweep varied."""
        if tokens:
            self.scores += shown.of_words(name, tokens)
            sums = shown.seen.by_cluster(tokens)
            made = (shown.cell, name, base, "words_percent", sums, ratio(100.0))
            self.comparables.append(Comparable(*made))
