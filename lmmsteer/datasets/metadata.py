"""The metadata file of a folder of pictures: rows of text, or the line that is wrong."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmmsteer import texts
from lmmsteer.errors import LmmsteerError

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
MEND = "Mend it, or save it anew as UTF-8."


def read_rows(path: Path) -> list[dict[str, str]]:
    """Each row's columns as text, empty ones left out; every row has a file name and an own id.

    Raises: LmmsteerError that names the line (in Parquet the row) which is not as it should be.
    """
    read = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[path.suffix]
    unit = "row" if path.suffix == ".parquet" else "line"
    rows: list[dict[str, str]] = []
    lines: dict[str, int] = {}
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is no file but a folder, pipe or device")
        for line, values in read(path):
            row = _text(values)
            if problem := _problem(row, lines, line, unit):
                raise ValueError(f"{unit} {line}: {problem}")
            rows.append(row)
    except (ValueError, OSError, pa.ArrowException) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        why = " ".join(said.split()).rstrip(".")
        raise LmmsteerError(f"{path} cannot be read: {why}.", MEND) from error
    return rows


def image_id(row: Mapping[str, str]) -> str:
    """The column image_id, or the file name where there is none."""
    return row.get("image_id") or row["file_name"]


def _problem(row: Mapping[str, str], lines: dict[str, int], line: int, unit: str) -> str | None:
    if "file_name" not in row:
        return "no file_name, which is the picture's path in the folder"
    first = lines.setdefault(image_id(row), line)
    if first != line:
        return f"the id {texts.shown(image_id(row))} stands in {unit} {first} already"
    names = (row[key] for key in ("file_name", "image_id", "group_id") if key in row)
    found = [texts.problem_of_name(name) for name in names]
    found += [texts.problem_of_text(text) for pair in row.items() for text in pair]
    return next((problem for problem in found if problem), None)


def _text(row: Mapping[str, Any]) -> dict[str, str]:
    return {str(k): _plain(v) for k, v in row.items() if v is not None and v != ""}


def _plain(value: Any) -> str:
    nested = isinstance(value, dict | list)
    return json.dumps(value, ensure_ascii=False, default=str) if nested else str(value)


def _csv(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    return texts.csv_rows(texts.from_utf8(path.read_bytes()))


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    return texts.json_rows(texts.from_utf8(path.read_bytes()))


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        texts.refuse_twice(file.schema_arrow.names)
        return enumerate(file.read().to_pylist(), start=1)
