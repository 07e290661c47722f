"""Pictures in a folder, bare or in the ImageFolder layout of Hugging Face datasets.

Address: any folder of yours. Licence: yours.
Example row of metadata.csv: file_name=0001.jpg, gender=woman, occupation=nurse
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lmmsteer import texts
from lmmsteer.datasets import metadata
from lmmsteer.datasets.base import Sample, read_named
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import LABELS

PICTURES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))


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
        tables = [root / name for name in metadata.NAMES if os.path.lexists(root / name)]
        if len(tables) > 1:
            names = " and ".join(table.name for table in tables)
            raise LmmsteerError(f"{root} has both {names}.", "Keep one of them.")
        rows = metadata.read_rows(tables[0]) if tables else _bare(root)
        return (_sample(root, row) for row in rows)


def _bare(root: Path) -> list[dict[str, str]]:
    names = sorted(p.relative_to(root).as_posix() for p in _files(root))
    for name in names:
        if problem := texts.problem_of_name(name):
            raise LmmsteerError(f"A file below {root} cannot be an id: {problem}.", "Rename it.")
    return [{"file_name": name} for name in names if not name.startswith(".")]


def _files(root: Path) -> Iterator[Path]:
    """Whatever is named like a picture and is no folder; nothing is left out unsaid."""
    for folder, _, names in os.walk(root, onerror=_refuse):
        paths = (Path(folder, name) for name in names)
        yield from (path for path in paths if path.suffix.lower() in PICTURES)


def _refuse(error: OSError) -> None:
    raise LmmsteerError(
        f"{error.filename} cannot be listed: {error.strerror}.", "Check the folder's rights."
    ) from error


def _sample(root: Path, row: Mapping[str, str]) -> Sample:
    own = metadata.image_id(row)
    known = {"file_name", "image_id", "group_id", *LABELS}
    return Sample(
        image_id=own,
        read=partial(read_named, own, root, row["file_name"]),
        group_id=row.get("group_id"),
        labels={label: row[label] for label in LABELS if row.get(label)},
        extra={key: value for key, value in row.items() if key not in known},
    )
