"""Parquet files with a column of pictures, as data sets lie on a hub.

The other columns are read first, without the pictures; a picture is read when it is asked for, its
row group at a time, and the last few row groups are kept, for pictures are asked for in order.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as types

from lmmsteer import texts
from lmmsteer.datasets.base import Picture, picture_of_bytes, read_named
from lmmsteer.errors import LmmsteerError

KEPT = 8  # row groups of pictures in memory: as many as are read from at a time
USUAL = ("image", "img", "picture", "jpg", "png", "webp")
Row = dict[str, str]
Read = Callable[[str], Picture]


@dataclass
class HubTable:
    """Files below a folder, one file, or the files of a pattern; image: the pictures' column."""

    path: str
    image: str | None = None
    _groups: OrderedDict[tuple[Path, int], list[Any]] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def rows(self) -> Iterator[tuple[Row, Read]]:
        """Every row's other columns as text, and what reads its picture under an id.

        The column `file_name` is added where the pictures come with their paths, and `row` always:
        the file and the row in it. Raises: LmmsteerError that names the file.
        """
        for path in self.files():
            with _opened(path) as file:
                image = self._column(path, file.schema_arrow)
                yield from self._of_file(path, file, image)

    def files(self) -> list[Path]:
        """In order. Raises: LmmsteerError where there is none."""
        root = Path(self.path)
        if root.is_dir():
            found = sorted(root.rglob("*.parquet"))
        elif any(letter in root.name for letter in "*?["):
            found = sorted(root.parent.glob(root.name))
        else:
            found = [root] if root.is_file() else []
        if not found:
            raise LmmsteerError(
                f"dataset.path={self.path} holds no Parquet file.",
                "Name a folder of them, one of them, or a pattern such as 'data/train-*.parquet'.",
            )
        return found

    def _column(self, path: Path, schema: pa.Schema) -> str:
        named = [self.image] if self.image else [*USUAL, *schema.names]
        for name in named:
            if name in schema.names and (self.image or _holds_pictures(schema.field(name).type)):
                return name
        raise LmmsteerError(
            f"{path} has no column of pictures{f' named {self.image}' if self.image else ''};"
            f" it has {', '.join(map(texts.shown, schema.names[:12]))}.",
            "Name it: dataset.image=COLUMN",
        )

    def _of_file(self, path: Path, file: pq.ParquetFile, image: str) -> Iterator[tuple[Row, Read]]:
        kind = file.schema_arrow.field(image).type
        own = [name for name in file.schema_arrow.names if name != image]
        named = types.is_struct(kind) and kind.get_field_index("path") >= 0
        number = 0
        for group in range(file.num_row_groups):
            table = _read(path, file, group, [*own, f"{image}.path"] if named else own)
            rows = table.to_pylist() or [{}] * file.metadata.row_group(group).num_rows
            for place, values in enumerate(rows):
                path_of = (values.pop(image, None) or {}).get("path") if named else None
                row = {str(k): _plain(v) for k, v in values.items() if v is not None and v != ""}
                if path_of:
                    row.setdefault("file_name", str(path_of))
                row["row"] = f"{path.stem}-{number:06d}"
                _refuse_unstorable(path, number, row)
                yield row, partial(self._picture, path, image, group, place)
                number += 1

    def _picture(self, path: Path, image: str, group: int, place: int, image_id: str) -> Picture:
        value = self._group(path, image, group)[place]
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):  # A path beside the file, where the bytes are not in it.
            return read_named(image_id, path.parent, value)
        if value is None:
            why = f"{image_id} has no bytes in {path.name}"
            return Picture(image_id, None, None, "picture_missing", why)
        return picture_of_bytes(image_id, value)

    def _group(self, path: Path, image: str, group: int) -> list[Any]:
        key = path, group
        with self._lock:
            if key not in self._groups:
                with _opened(path) as file:
                    self._groups[key] = _read(path, file, group, [image])[image].to_pylist()
            self._groups.move_to_end(key)
            while len(self._groups) > KEPT:
                self._groups.popitem(last=False)
            return self._groups[key]


def _holds_pictures(kind: pa.DataType) -> bool:
    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return types.is_binary(kind) or types.is_large_binary(kind)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def _read(path: Path, file: pq.ParquetFile, group: int, columns: list[str]) -> pa.Table:
    try:
        return file.read_row_group(group, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> LmmsteerError:
    why = " ".join(str(error).split()).rstrip(".")
    return LmmsteerError(f"{path} cannot be read: {why}.", "Fetch it again: it is not whole.")


def _refuse_unstorable(path: Path, number: int, row: Row) -> None:
    names = (row[key] for key in ("file_name", "image_id", "group_id") if key in row)
    problems = [texts.problem_of_name(name) for name in names]
    problems += [texts.problem_of_text(text) for pair in row.items() for text in pair]
    if problem := next(filter(None, problems), None):
        raise LmmsteerError(f"{path} cannot be read: row {number}: {problem}.", "Save it anew.")


def _plain(value: Any) -> str:
    nested = isinstance(value, dict | list)
    return json.dumps(value, ensure_ascii=False, default=str) if nested else str(value)
