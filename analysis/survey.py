"""What has to be known of a cell before its first answer is measured, from its narrow columns.

Rows are told apart by 64-bit hashes, eight bytes a row; where two agree, their names decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import polars as pl

from lmmsteer.schema import LABELS

Frames = Callable[[], Iterator[pl.DataFrame]]


@dataclass
class Survey:
    """A cell's rows, counted. answered: rows with a text; planned: rows that the manifest has.

    labels: the label columns that an answered row has one in. together: whether the rows of every
    picture stand together. twice: a row that is answered twice.
    """

    rows: int = 0
    answered: int = 0
    planned: int = 0
    labels: set[str] = field(default_factory=set)
    together: bool = True
    twice: str | None = None


def survey(frames: Frames) -> Survey:
    """Look at row_id, image_id, answered, planned and the labels of all rows of a cell.

    frames: reads them anew, some rows at a time.
    """
    found, rows, pictures = Survey(), [], []
    for frame in frames():
        _count(found, frame)
        rows.append(frame["row_id"].hash())
        pictures.append(_turns(frame["image_id"].hash()))
    found.together = not rows or _together(pl.concat(pictures))
    if rows and (hashes := pl.concat(rows)).n_unique() < len(hashes):
        found.twice = _twice(frames, hashes.filter(hashes.is_duplicated()).unique())
    return found


def _count(found: Survey, frame: pl.DataFrame) -> None:
    answered = frame.filter("answered")
    found.rows += len(frame)
    found.answered += len(answered)
    found.planned += int(frame["planned"].sum())
    there = [name for name in LABELS if name in frame.columns]
    found.labels |= {name for name in there if answered[name].is_not_null().any()}


def _turns(pictures: pl.Series) -> pl.Series:
    """The pictures without those that follow themselves."""
    return pictures.filter((pictures != pictures.shift(1)).fill_null(True))


def _together(turns: pl.Series) -> bool:
    seen = _turns(turns)
    return seen.n_unique() == len(seen)


def _twice(frames: Frames, hashes: pl.Series) -> str | None:
    """The first row whose name is there twice, of those whose hashes are."""
    alike = [frame["row_id"].filter(frame["row_id"].hash().is_in(hashes)) for frame in frames()]
    names = pl.concat(alike)
    twice = names.filter(names.is_duplicated())
    return None if twice.is_empty() else str(twice[0])
