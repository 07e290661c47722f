"""Verdicts as they lie in out/judgements/KIND/SETUP: JSON lines, one a question, never changed.

Every process writes its own file, a line as soon as a question is settled. A line that a kill or a
full disk cut short does not count: its question is asked again. Of several lines of a question a
verdict counts before an error.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import polars as pl

from analysis.judge.answer import ANSWERED, Count, Failure, Match
from analysis.judge.question import Question, Setup
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import Store

TOKENS = ("input_tokens", "output_tokens")
SCHEMA = pl.Schema(
    {
        "key": pl.String(),
        "spans": pl.List(pl.String()),
        "count": pl.Int64(),
        "count_effective": pl.Int64(),
        "mismatch": pl.Boolean(),
        "yes": pl.Boolean(),
        "error_kind": pl.String(),
        "error": pl.String(),
        "input_tokens": pl.Int64(),
        "output_tokens": pl.Int64(),
    }
)


class Verdicts:
    """The log of one setup."""

    def __init__(self, store: Store, setup: Setup) -> None:
        self.store = store
        self.setup = setup
        self._path = f"{setup.folder}/verdicts-{uuid.uuid4().hex}.jsonl"

    def begin(self) -> None:
        """Say beside the verdicts what they were asked with."""
        text = json.dumps(self.setup.record, indent=1, ensure_ascii=True)
        self.store.write_bytes(f"{self.setup.folder}/setup.json", text.encode())

    def add(
        self,
        question: Question,
        found: Count | Match | Failure,
        tokens: tuple[int, int],
        tries: int,
    ) -> None:
        """Append what a question came to, and the tokens of all its tries."""
        line: dict[str, Any] = {
            "key": question.key,
            "about": question.about,
            "row_id": question.row_id,
        }
        if isinstance(found, Failure):
            line |= {"error_kind": found.kind, "error": found.message}
        else:
            line |= found.record()
        line |= {"input_tokens": tokens[0], "output_tokens": tokens[1], "tries": tries}
        self.store.append(self._path, json.dumps(line, ensure_ascii=True))

    def flush(self) -> None:
        self.store.flush()

    def read(self) -> pl.DataFrame:
        """One row for each question that was settled: its verdict, else its last error, and the
        tokens of all its lines."""
        found: dict[str, dict[str, Any]] = {}
        for line in self._lines():
            before = found.get(line["key"])
            if before is not None:
                for name in TOKENS:
                    line[name] += before[name]
                if before.get("error_kind") is None and line.get("error_kind") is not None:
                    line = {**before, **{name: line[name] for name in TOKENS}}
            found[line["key"]] = line
        return pl.DataFrame(
            [[line.get(name) for name in SCHEMA] for line in found.values()],
            schema=SCHEMA,
            orient="row",
        )

    def settled(self, retry: bool) -> set[str]:
        """Questions that need not be asked: those with a verdict and, unless `retry`, those whose
        answer was paid for and cannot be used."""
        found = self.read().select("key", "error_kind")
        done = pl.col("error_kind").is_null()
        if not retry:
            done |= pl.col("error_kind").is_in(ANSWERED)
        return set(found.filter(done)["key"])

    def _lines(self) -> Iterator[dict[str, Any]]:
        for path in self.store.list(self.setup.folder):
            if not path.rpartition("/")[2].startswith("verdicts-"):
                continue
            for number, text in enumerate(self.store.read_bytes(path).splitlines(), start=1):
                try:
                    line = json.loads(text)
                except ValueError:
                    continue  # cut short
                yield _checked(line, f"{self.store.root}/{path} line {number}")


def _checked(line: Any, place: str) -> dict[str, Any]:
    """A whole line that is no verdict was written by somebody else."""
    named = isinstance(line, dict) and isinstance(line.get("key"), str)
    if not named or not all(isinstance(line.get(name), int) for name in TOKENS):
        raise LmmsteerError(f"{place} is no verdict.", "Take the line out.")
    return line
