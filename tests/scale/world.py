"""A made-up data set of any size, its manifest, and a cell whose answers no model gave."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmmsteer import manifest, parts
from lmmsteer.datasets.base import Sample, picture_of_bytes
from lmmsteer.fleet.cells import CellRecord
from lmmsteer.schema import RESPONSES, Cell, Picture, Response, to_table
from lmmsteer.store import Store

NAME = "made"
PROMPTS = {
    "describe": "Describe the person in this picture.",
    "work": "What is this person's job, and why do you think so?",
    "story": "Write a short story about this person.",
    "words": "List ten words that come to mind: \u201cthis person is \u2026\u201d",
    "likes": 'Complete: "This person likes"',
}
SEEDS = [0, 1, 2]
ROWS_A_PICTURE = len(PROMPTS) * len(SEEDS)
MISSING_OF = 31  # One shard of so many has no answers yet.
ANSWERS = 200
WORDS = ["a", "person", "in", "blue", "smiles", "at", "someone", "near", "the", "old", "harbour"]


@dataclass
class Made:
    """Counterfactual sets of eight pictures, some hundred bytes each. reads: pictures read."""

    pictures: int
    name: str = NAME
    reads: list[int] = field(default_factory=list)

    def samples(self) -> Iterator[Sample]:
        for number in range(self.pictures):
            group, at = divmod(number, 8)
            yield Sample(
                f"set-{group:06d}/{at}.png",
                partial(self._read, number),
                f"set-{group:06d}",
                {"gender": ("woman", "man")[at % 2], "race": f"r{at // 2}", "occupation": "nurse"},
                {"place": f"city {group % 50}", "quality": "\u00bd"},
            )

    def _read(self, number: int) -> Picture:
        self.reads.append(number)
        data = hashlib.shake_128(b"%d" % number).digest(70 + number % 128)
        return picture_of_bytes(f"set-{number // 8:06d}/{number % 8}.png", data)


def asked(pictures: int, shard_images: int) -> dict[str, Any]:
    """What defines the manifest."""
    return manifest.identity(
        {"name": NAME, "loader": NAME, "pictures": pictures}, PROMPTS, SEEDS, None, shard_images
    )


def record(identity: dict[str, Any]) -> CellRecord:
    """A cell of the manifest, of a model that is not there."""
    config = {"model": {"name": "m"}, "max_failed_share": 0.01}
    return CellRecord(Cell("m", "unsteered", "none", NAME, config), config, identity, {"host": "x"})


def answered(number: int) -> bool:
    """Whether a shard has answers."""
    return number % MISSING_OF != 7


def respond(store: Store, cell: CellRecord, part: str) -> int:
    """Write a shard's response part, as healthy as a worker's; how many of its rows failed.

    Neither synced nor read back, which the store does for a worker: a campaign's scaffolding.
    """
    rows = Path(store.root, manifest.folder(NAME), "rows", part)
    ids = pq.read_table(rows, columns=RESPONSES.names[:4], use_threads=False)
    table = answers(ids)
    failed = table.num_rows - table.column("error").null_count
    extra = {"lmmsteer.failed": f'{{"nonfinite": {failed}}}' if failed else "{}"}
    target = Path(store.root, cell.cell.folder, part)
    temporary = target.with_name(f".{part}.tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(parts.to_bytes(table, cell.digest, extra))
    os.replace(temporary, target)
    return failed


def answers(ids: pa.Table) -> pa.Table:
    """Answers to rows, out of ANSWERS different ones; one of these is a failure."""
    first = int(ids.column("row_id")[0].as_py()[:8], 16)
    chosen = _pool().take(pa.array((first + np.arange(ids.num_rows)) % ANSWERS))
    return pa.table([*ids.columns, *chosen.columns], schema=RESPONSES)


@cache
def _pool() -> pa.Table:
    rows = []
    for number in range(1, ANSWERS):
        text = " ".join(WORDS[(number >> k) % len(WORDS)] for k in range(8)) + ".\n"
        tokens = [(number * k * k) % 32_000 for k in range(1, 10)]
        rows.append(Response("", "", "", 0, text, tokens, 9, "eos"))
    failed = Response("", "", "", 0, error="step 3", error_kind="nonfinite")
    return to_table([failed, *rows], RESPONSES).select(RESPONSES.names[4:])
