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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl

from analysis import comparisons, scores
from analysis.comparisons import Comparable
from analysis.frame import BASELINE, CellFiles, Output, read
from analysis.means import difference
from analysis.mentions import find_targets
from analysis.scores import Score
from analysis.settings import Analysis
from analysis.stats import Bootstrap, Floats, Permutation, ratio
from analysis.words import Targets
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Cell
from lmmsteer.store import Store

NAME = "tokens"
SPACE = "▁"  # How a leading space is shown.


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


class Summed(Protocol):
    """Probabilities summed by picture. sums: [pictures, vocab]; rows: [pictures], prompts in it."""

    sums: Any
    rows: Any


class Opened(Protocol):
    """A cell whose model and method are there. texts: of every token of its vocabulary."""

    @property
    def texts(self) -> Sequence[str]: ...

    def spelled(self, words: Sequence[str]) -> list[int]:
        """The tokens that spell one of the words whole."""
        ...


class Models(Protocol):
    """Whoever can show pictures to the models of an output folder."""

    def open(self, folder: str) -> Any: ...

    def look(self, opened: Any, image_ids: Sequence[str], steered: bool) -> Summed: ...


@dataclass(frozen=True)
class Seen:
    """Probabilities by picture, [pictures, vocab] and [pictures], and their totals by cluster."""

    sums: Floats
    rows: Floats
    of: Sequence[int]  # the cluster of each picture

    @property
    def mean(self) -> Floats:
        """[vocab]"""
        return self.sums.sum(0, dtype=np.float64) / self.rows.sum()

    def columns(self, tokens: Sequence[int]) -> Floats:
        """[clusters, 2]: the summed probability of these tokens together, and the rows."""
        found = np.zeros((max(self.of) + 1, 2))
        np.add.at(
            found,
            list(self.of),
            np.stack([self.sums[:, tokens].sum(1, dtype=np.float64), self.rows], 1),
        )
        return found


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
            look = _Look(files, opened, clusters, share, labels(opened.texts))
            if base is None:
                base = look.seen(self.models.look(opened, image_ids, False))
                plain = Cell(model, BASELINE, "none", dataset)
                self._baseline(plain, look, base)
            if files.cell.method != BASELINE:
                self._steered(look, look.seen(self.models.look(opened, image_ids, True)), base)
                self.say(f"{files.cell}: seen")

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

    def _measured(self, base: str) -> Mapping[str, Targets]:
        return self.targets if base == "none" else {base: self.targets[base]}

    def _baseline(self, cell: Cell, look: _Look, seen: Seen) -> None:
        spoken = {name: look.tokens(found) for name, found in self.targets.items()}
        self.about[f"{cell.model} {cell.dataset}"] = {
            "pictures": len(look.clusters),
            "tokens": {name: [look.labels[t] for t in tokens] for name, tokens in spoken.items()},
        }
        for name, tokens in spoken.items():
            self._words(cell, name, "none", tokens, look, seen)
            for token in tokens:
                self._probability(cell, name, token, look, seen)

    def _steered(self, look: _Look, seen: Seen, base: Seen) -> None:
        cell, own = look.files.cell, look.files.attribute
        listed: dict[str, list[int]] = {}
        for name, targets in self._measured(own).items():
            shown = name if own == "none" else cell.attribute
            listed[shown] = look.tokens(targets)
            self._words(cell, shown, own, listed[shown], look, seen, base)
        change = seen.mean - base.mean
        top = np.argsort(-np.abs(change), kind="stable")[: self.keys.top].tolist()
        kept = listed.setdefault(cell.attribute, [])
        kept += [token for token in top if token not in kept]
        for shown, tokens in listed.items():
            for token in sorted(tokens, key=lambda token: (-abs(change[token]), token)):
                self._probability(cell, shown, token, look, seen)
                self._score(cell, shown, "change", [token], look, seen, base, look.labels[token])

    def _words(
        self,
        cell: Cell,
        attribute: str,
        own: str,
        tokens: list[int],
        look: _Look,
        seen: Seen,
        base: Seen | None = None,
    ) -> None:
        """Of all tokens of an attribute's words together."""
        if not tokens:
            return
        columns = seen.columns(tokens)
        self._add(cell, attribute, "words_probability", columns, look, seen)
        if base is not None:
            self._score(cell, attribute, "words_change", tokens, look, seen, base)
        sums = pl.DataFrame(
            {"cluster": range(len(columns)), "hits": columns[:, 0], "rows": columns[:, 1]}
        )
        named = attribute if own == "none" else own
        self.comparables.append(
            Comparable(cell, attribute, named, "words_percent", sums, ratio(100.0))
        )

    def _probability(self, cell: Cell, attribute: str, token: int, look: _Look, seen: Seen) -> None:
        columns = seen.columns([token])
        self._add(cell, attribute, "probability", columns, look, seen, look.labels[token])

    def _score(
        self,
        cell: Cell,
        attribute: str,
        metric: str,
        tokens: list[int],
        look: _Look,
        seen: Seen,
        base: Seen,
        group: str | None = None,
    ) -> None:
        both = np.concatenate([seen.columns(tokens), base.columns(tokens)], 1)
        found = self.bootstrap.interval(both, difference)
        n = int(seen.rows.sum())
        self.scores.append(Score(cell, attribute, metric, found, n, look.share, group))

    def _add(
        self,
        cell: Cell,
        attribute: str,
        metric: str,
        columns: Floats,
        look: _Look,
        seen: Seen,
        group: str | None = None,
    ) -> None:
        found = self.bootstrap.interval(columns, ratio())
        n = int(seen.rows.sum())
        self.scores.append(Score(cell, attribute, metric, found, n, look.share, group))


@dataclass(frozen=True)
class _Look:
    """A cell that is looked at. share: of the manifest's pictures that are shown. labels: a name
    for every token."""

    files: CellFiles
    opened: Opened
    clusters: Sequence[int]
    share: float
    labels: Sequence[str]

    def seen(self, found: Summed) -> Seen:
        sums, rows = np.asarray(found.sums), np.asarray(found.rows, dtype=np.float64)
        if not rows.sum():
            raise LmmsteerError(
                f"{self.files.cell}: none of the {len(rows)} pictures could be shown.",
                "Show others: analysis.seed=1, or more: analysis.tokens.pictures=1000",
            )
        return Seen(sums, rows, self.clusters)

    def tokens(self, targets: Targets) -> list[int]:
        return self.opened.spelled(sorted(targets.words))


def labels(texts: Sequence[str]) -> list[str]:
    """A name for every token: its text, spaces as ▁, and its id where others have the same."""
    shown = [_printable(text) for text in texts]
    times = Counter(shown)
    return [
        text if text and times[text] == 1 else f"{text}[{token}]"
        for token, text in enumerate(shown)
    ]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.replace(" ", SPACE))
