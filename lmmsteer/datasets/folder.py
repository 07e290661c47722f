"""Pictures in a folder, bare or in the ImageFolder layout of Hugging Face datasets.

Address: any folder of yours. Licence: yours.
Example row of metadata.csv: file_name=0001.jpg, gender=woman, occupation=nurse
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmmsteer.datasets.base import Sample, read_picture
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import LABELS

PICTURES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@dataclass(frozen=True)
class Folder:
    """`path` with metadata.csv, .jsonl or .parquet (`file_name`, label columns), or pictures alone.

    The image id is the file name, or the column `image_id` where there is one. Columns that are no
    label go to `extra`. Order: the metadata file's; bare pictures by name.
    """

    name: str
    path: str

    def samples(self) -> Iterator[Sample]:
        root = Path(self.path)
        if not root.is_dir():
            raise LmmsteerError(
                f"dataset.path={self.path} is not a folder.",
                "Name a folder of pictures: dataset=folder dataset.path=DIR",
            )
        metadata = [root / name for name in METADATA if (root / name).is_file()]
        if len(metadata) > 1:
            names = " and ".join(m.name for m in metadata)
            raise LmmsteerError(f"{root} has both {names}.", "Keep one of them.")
        rows = _rows(metadata[0]) if metadata else _bare(root)
        return (_sample(root, row) for row in rows)


def _bare(root: Path) -> list[dict[str, str]]:
    files = (p for p in root.rglob("*") if p.suffix.lower() in PICTURES and not p.is_dir())
    names = sorted(p.relative_to(root).as_posix() for p in files)
    return [{"file_name": name} for name in names if not name.startswith(".")]


def _sample(root: Path, row: Mapping[str, str]) -> Sample:
    name = row["file_name"]
    image_id = row.get("image_id") or name
    known = {"file_name", "image_id", "group_id", *LABELS}
    return Sample(
        image_id=image_id,
        read=partial(read_picture, image_id, root / name, root),
        group_id=row.get("group_id"),
        labels={label: row[label] for label in LABELS if row.get(label)},
        extra={key: value for key, value in row.items() if key not in known},
    )


def _rows(path: Path) -> list[dict[str, str]]:
    read = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[path.suffix]
    try:
        rows = [_text(row) for row in read(path)]
    except (UnicodeDecodeError, ValueError, csv.Error, pa.ArrowException) as error:
        why = " ".join(str(error).split())
        raise LmmsteerError(f"{path} cannot be read: {why}.", "Save it anew as UTF-8.") from error
    for number, row in enumerate(rows, start=1):
        if not row.get("file_name"):
            raise LmmsteerError(
                f"{path} row {number} has no file_name.",
                "ImageFolder metadata needs a column file_name with the picture's relative path.",
            )
    return rows


def _text(row: Mapping[str, Any]) -> dict[str, str]:
    return {str(k): str(v) for k, v in row.items() if v is not None and v != ""}


def _csv(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has another number of fields than the header")
    return rows


def _jsonl(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def _parquet(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()
