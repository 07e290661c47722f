"""The tables that published data sets come with: rows by the names of their columns.

Columns are looked up by name and others are let be, so that a release with more of them is read as
well. Whatever is not there is named, with where it comes from.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lmmsteer import texts
from lmmsteer.errors import LmmsteerError

Row = dict[str, str]
SHOWN = 12  # columns that a refusal names


def folder(path: str, name: str, source: str) -> Path:
    """The folder that a data set's `path` names. Raises: LmmsteerError where it is none."""
    found = Path(path)
    if not found.is_dir():
        raise LmmsteerError(
            f"dataset.path={path} is not a folder.",
            f"Name the folder of {name}; it comes from {source}",
        )
    return found


def one_of(root: Path, names: Sequence[str], source: str) -> Path:
    """The first of the files that is there. Raises: LmmsteerError where none is."""
    for name in names:
        if (root / name).exists():
            return root / name
    said = " nor ".join(names) if len(names) > 1 else names[0]
    raise LmmsteerError(
        f"{root} has {'neither ' if len(names) > 1 else 'no '}{said}.", f"It comes with {source}"
    )


def unknown(key: str, value: object, known: Iterable[str]) -> LmmsteerError:
    """The refusal of a value that a key of `dataset` does not have."""
    return LmmsteerError(
        f"dataset.{key}={value} is not known.", f"Choose one of {', '.join(known)}."
    )


def csv_rows(path: Path, needed: Iterable[str], name: str | None) -> list[Row]:
    """Every row of a CSV file that has the columns `needed`; `name`: that of pictures' names.

    Raises: LmmsteerError that names the file, and the line or the column that is not as it should.
    """
    needed = list(needed)
    rows: list[Row] = []
    try:
        for line, row in texts.csv_rows(_text(path)):
            if not rows:
                _refuse_lacking(path, row, needed)
            _refuse_unstorable(row, line, name)
            rows.append(row)
    except (ValueError, OSError) as error:
        raise _unread(path, error) from error
    if not rows:
        raise LmmsteerError(f"{path} has no rows.", "Is it whole? Unpack the data set again.")
    return rows


def json_file(path: Path) -> Any:
    """What a JSON file holds. Raises: LmmsteerError that names the file and the place in it."""
    try:
        return json.loads(_text(path))
    except (ValueError, OSError, RecursionError) as error:
        raise _unread(path, error) from error


def _text(path: Path) -> str:
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no file but a folder, pipe or device")
    return texts.from_utf8(path.read_bytes())


def _refuse_lacking(path: Path, row: Row, needed: Sequence[str]) -> None:
    lacking = [name for name in needed if name not in row]
    if lacking:
        there = ", ".join(map(texts.shown, list(row)[:SHOWN]))
        more = f" and {len(row) - SHOWN} more" if len(row) > SHOWN else ""
        raise LmmsteerError(
            f"{path} lacks the column {', '.join(lacking)}; it has {there}{more}.",
            "Is it the file of this data set, with commas between its columns?",
        )


def _refuse_unstorable(row: Row, line: int, name: str | None) -> None:
    problem = None
    if name is not None:
        problem = texts.problem_of_name(row[name]) if row[name] else "a picture without a name"
    problems = [problem, *(texts.problem_of_text(text) for text in row.values())]
    if found := next(filter(None, problems), None):
        raise ValueError(f"line {line}: {found}")


def _unread(path: Path, error: Exception) -> LmmsteerError:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    why = " ".join(said.split()).rstrip(".")
    return LmmsteerError(f"{path} cannot be read: {why}.", "Unpack the data set again.")
