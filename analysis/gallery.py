"""The gallery's rows: one picture and prompt, every method's answer side by side.

Two measures of how much the answers to a row differ. `spread`: for an attribute, the largest minus
the smallest number of mentions among the methods shown for it. `words`: the mean, over pairs of
methods, of 1 - (common words / words of either). Rows are chosen by the sum of the spreads, then by
words. They stand in the order in which the page opens: by the first attribute's spread plus half of
words, the largest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from analysis.frame import CellFiles, Output
from analysis.mentions import counts
from analysis.words import Targets, split
from lmmsteer.schema import LABELS

CANDIDATES = 4_000  # rows of a model and data set that are compared, or as many as are shown


@dataclass(frozen=True)
class Answer:
    """What one method said; `text` is None where the row failed."""

    method: str
    attribute: str
    text: str | None


@dataclass
class Item:
    """One row of the gallery. `group`: the counterfactual set, where the row is of one."""

    row_id: str
    model: str
    dataset: str
    image_id: str
    prompt_id: str
    prompt: str
    seed: int
    labels: dict[str, str]
    spread: dict[str, int]
    words: float
    group: str | None = None
    answers: list[Answer] = field(default_factory=list)

    @property
    def place(self) -> str:
        return f"{self.model} on {self.dataset}"

    @property
    def rank(self) -> tuple[int, float]:
        return sum(self.spread.values()), self.words

    @property
    def first(self) -> float:
        """What the page sorts by when it opens."""
        return next(iter(self.spread.values()), 0) + self.words / 2


def compared(limit: int) -> int:
    """Rows of a model and data set that are held against each other: the smallest row ids."""
    return max(CANDIDATES, limit)


def build(output: Output, targets: Mapping[str, Targets], limit: int) -> list[Item]:
    """At most `limit` rows, shared evenly among models, data sets and prompts."""
    places: dict[tuple[str, str], list[CellFiles]] = {}
    for files in output.cells:
        if files.parts:
            places.setdefault((files.cell.model, files.cell.dataset), []).append(files)
    each = max(1, limit // len(places))
    found = [item for cells in places.values() for item in _place(output, cells, targets, each)]
    return sorted(found[:limit], key=lambda item: item.first, reverse=True)


def _place(
    output: Output, cells: Sequence[CellFiles], targets: Mapping[str, Targets], limit: int
) -> list[Item]:
    first = output.load(cells[0]).frame.sort("row_id").head(compared(limit))
    texts: list[dict[str, str]] = []
    mentions: list[dict[str, dict[str, int]]] = []
    for files in cells:
        answers = output.load(files).frame.join(first, on="row_id", how="semi")
        texts.append(dict(answers.select("row_id", "text").iter_rows()))
        counted = counts(answers.select("row_id", "text"), targets)
        mentions.append({row.pop("row_id"): row for row in counted.iter_rows(named=True)})
    items = []
    for row in first.iter_rows(named=True):
        said = [text[row["row_id"]] for text in texts if row["row_id"] in text]
        spread = _spread(row["row_id"], cells, mentions, targets)
        items.append(_item(cells[0], row, spread, difference(said)))
    chosen = choose(items, limit)
    for item in chosen:
        item.answers = [
            Answer(f.cell.method, f.attribute, text.get(item.row_id))
            for f, text in zip(cells, texts, strict=True)
        ]
    return chosen


def _item(files: CellFiles, row: dict, spread: dict[str, int], words: float) -> Item:
    labels = {name: row[name] for name in LABELS if row.get(name) is not None}
    names = (files.cell.model, files.cell.dataset, row["image_id"], row["prompt_id"])
    prompt = row.get("prompt") or row["prompt_id"]
    group = row.get("group_id")
    return Item(row["row_id"], *names, prompt, row["seed"], labels, spread, words, group)


def _spread(
    row_id: str,
    cells: Sequence[CellFiles],
    mentions: Sequence[Mapping[str, Mapping[str, int]]],
    targets: Iterable[str],
) -> dict[str, int]:
    found = {}
    for attribute in targets:
        shown = [
            counted[row_id][attribute]
            for files, counted in zip(cells, mentions, strict=True)
            if row_id in counted and files.attribute in ("none", attribute)
        ]
        found[attribute] = max(shown) - min(shown) if shown else 0
    return found


def difference(texts: Sequence[str]) -> float:
    """Mean over pairs of texts of 1 - (common words / words of either); 0 for fewer than two."""
    sets = [set(split(text)) for text in texts]
    pairs = [1 - len(a & b) / max(1, len(a | b)) for a, b in combinations(sets, 2)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def choose(items: Sequence[Item], limit: int) -> list[Item]:
    """The highest ranks of each prompt in equal shares, a picture once for each prompt."""
    by_prompt: dict[str, dict[str, Item]] = {}
    for item in sorted(items, key=lambda item: item.rank, reverse=True):
        by_prompt.setdefault(item.prompt_id, {}).setdefault(item.image_id, item)
    each = max(1, -(-limit // max(1, len(by_prompt))))
    chosen = [item for found in by_prompt.values() for item in list(found.values())[:each]]
    return sorted(chosen, key=lambda item: item.rank, reverse=True)[:limit]


def image_ids(items: Iterable[Item]) -> dict[str, set[str]]:
    """The pictures that are shown, by data set."""
    shown: dict[str, set[str]] = {}
    for item in items:
        shown.setdefault(item.dataset, set()).add(item.image_id)
    return shown
