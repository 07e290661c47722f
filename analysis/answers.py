"""A cell's answers batch by batch, as analyses see them, in memory that no cell's size moves.

The cell is read twice: its narrow columns (`survey`), then its answers in batches of whole
pictures. What is held of a row is eight bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import polars as pl

from analysis.batches import by_hash, whole_pictures
from analysis.frame import (
    ANSWER_COLUMNS,
    OPTIONAL_COLUMNS,
    Answers,
    CellFiles,
    Output,
    answered_twice,
)
from analysis.labels import Labels
from analysis.pieces import complete, opened, pieces
from analysis.survey import Survey, survey
from lmmsteer.store import Store

BATCH = 40_000  # rows
KINDS = {"new_tokens": pl.Int64, "finish_reason": pl.String}


def batches(output: Output, files: CellFiles, rows: int = BATCH) -> Iterator[Answers]:
    """The answers of a cell, about so many rows at a time; one batch at least.

    The rows of a picture are in one batch, in the order of the parts where they stand together.
    Raises: LmmsteerError for a damaged part, a missing column or a row answered twice.
    """
    cell = _Cell(output.store, files, output.labels(files.cell.dataset), rows)
    found = survey(cell.narrow)
    if found.twice is not None:
        raise answered_twice(output.store, files, found.twice)
    frames = (
        whole_pictures(cell.wide, rows) if found.together else by_hash(cell.wide, rows, found.rows)
    )
    for frame in frames:
        yield _answers(output, files, found, frame)


def _answers(output: Output, files: CellFiles, found: Survey, frame: pl.DataFrame) -> Answers:
    return Answers(
        files,
        frame.filter(pl.col("text").is_not_null()),
        found.rows - found.answered,
        found.planned / files.planned if files.planned else None,
        partial(output.work, files.cell),
        frozenset(found.labels),
    )


class _Cell:
    """The parts of a cell, read anew whenever they are asked for."""

    def __init__(self, store: Store, files: CellFiles, labels: Labels, rows: int) -> None:
        self.store, self.labels, self.rows = store, labels, rows
        self.paths = [part.path for part in files.parts]
        self.optional: list[str] = []

    def narrow(self) -> Iterator[pl.DataFrame]:
        """row_id, image_id, answered, planned and labels; texts only where the footer says no more.

        The optional columns that any part has are known afterwards.
        """
        for path in self.paths:
            with opened(self.store, path) as part:
                names = part.schema_arrow.names
                full = "text" in names and complete(part, "text")
            here = [name for name in OPTIONAL_COLUMNS if name in names]
            self.optional = [n for n in OPTIONAL_COLUMNS if n in (*self.optional, *here)]
            columns = ANSWER_COLUMNS[:2] if full else (*ANSWER_COLUMNS[:2], "text")
            for frame in self._labelled(path, columns):
                text = pl.lit(True) if full else pl.col("text").is_not_null()
                yield frame.with_columns(answered=text)

    def wide(self) -> Iterator[pl.DataFrame]:
        """Answers with their labels, failed rows among them."""
        for path in self.paths:
            for frame in self._labelled(path, ANSWER_COLUMNS, self.optional):
                absent = [name for name in self.optional if name not in frame.columns]
                nulls = {name: pl.lit(None, KINDS[name]) for name in absent}
                frame = frame.with_columns(**nulls).drop("planned")
                yield frame.select(pl.exclude(self.optional), *self.optional)

    def _labelled(
        self, path: str, columns: Sequence[str], optional: Sequence[str] = ()
    ) -> Iterator[pl.DataFrame]:
        name = path.rpartition("/")[2]
        for frame in pieces(self.store, path, columns, optional, self.rows):
            yield self.labels.join(frame, name)
