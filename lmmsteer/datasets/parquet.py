"""Any Parquet files with a column of pictures, as data sets lie on a hub.

Address: files of yours, or of a hub (`hf download ORGANISATION/NAME --repo-type dataset`). Licence:
that of the files. Example row: image={bytes: ..., path: 0001.jpg}, gender=woman, occupation=nurse
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from lmmsteer.datasets.base import Sample
from lmmsteer.datasets.hub import HubTable, Row
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import LABELS


@dataclass(frozen=True)
class ParquetFiles:
    """One sample for each row.

    path: a folder (with all Parquet files below it), a file, or a pattern. image: the column of
    pictures (null: the first that holds some: bytes, or the hub's {bytes, path}). image_id,
    group_id: columns of the picture's id (null: image_id or file_name, else the file and row) and
    of its counterfactual set. labels: {label: column} where a label's column has another name.
    Columns that are no label go to `extra`.
    """

    name: str
    path: str
    image: str | None = None
    image_id: str | None = None
    group_id: str | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def samples(self) -> Iterator[Sample]:
        unknown = sorted(set(self.labels) - set(LABELS))
        if unknown:
            raise LmmsteerError(
                f"dataset.labels names {unknown[0]}, which is no label.",
                f"Labels are {', '.join(LABELS)}.",
            )
        for row, read in HubTable(self.path, self.image).rows():
            columns = {label: self.labels.get(label, label) for label in LABELS}
            own = self._id(row)
            group = self.group_id or "group_id"
            used = {*columns.values(), self.image_id, "image_id", "file_name", "row", group}
            yield Sample(
                image_id=own,
                read=partial(read, own),
                group_id=row.get(group),
                labels={label: row[name] for label, name in columns.items() if name in row},
                extra={key: value for key, value in row.items() if key not in used},
            )

    def _id(self, row: Row) -> str:
        if self.image_id is None:
            return row.get("image_id") or row.get("file_name") or row["row"]
        if self.image_id not in row:
            raise LmmsteerError(
                f"{row['row']} has no {self.image_id}, which dataset.image_id names.",
                f"It has {', '.join(_shown(row))}.",
            )
        return row[self.image_id]


def _shown(row: Row) -> list[str]:
    return [name for name in row if name != "row"][:12]
