"""Reference captions by picture: of a file, or of a column of the data set's metadata.

A file (Parquet, CSV or JSON) has image_id and caption, a row a caption, or is one of COCO's
captions_*.json (images and annotations), whose pictures go by their id and by their file name. In
the manifest they are the column analysis.references_column of `extra`: one caption, or a JSON list.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analysis.settings import Analysis
from analysis.words import split
from lmmsteer import texts
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import Store

Captions = dict[str, tuple[str, ...]]
MEND = "Write a Parquet, CSV or JSON file with the columns image_id and caption, a row a caption."


class References:
    """{image_id: captions} of every data set, read once."""

    def __init__(self, store: Store, settings: Analysis) -> None:
        self.store, self.settings = store, settings
        self._manifests: dict[str, Captions] = {}

    def of(self, dataset: str) -> Captions:
        """The captions of a data set's pictures; empty where there are none.

        Raises: LmmsteerError for a file or a column that is not as it should be.
        """
        if self.settings.references:
            return self._file
        if dataset not in self._manifests:
            self._manifests[dataset] = dict(self._manifest(dataset))
        return self._manifests[dataset]

    @property
    def source(self) -> str:
        return self.settings.references or f"the column {self.settings.references_column}"

    @cached_property
    def _file(self) -> Captions:
        return read(Path(str(self.settings.references)))

    def _manifest(self, dataset: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        column = self.settings.references_column
        for path in self.store.list(f"manifest/dataset={dataset}/rows"):
            if not path.endswith(".parquet"):
                continue
            source = self.store.local(path) or io.BytesIO(self.store.read_bytes(path))
            try:
                pairs = list(_extra(source, column))
            except (pa.ArrowException, OSError) as error:
                raise LmmsteerError(
                    f"{self.store.root}/{path} is damaged: {' '.join(str(error).split())}.",
                    f"Move it to {self.store.root}/trash, then: lmmsteer manifest",
                ) from error
            for image_id, value in pairs:
                if found := _listed(value, f"the captions of {image_id} in {dataset}"):
                    yield image_id, found


def _extra(source: Any, column: str) -> Iterator[tuple[str, str]]:
    """image_id and the text of a column of `extra`, of the pictures of a part that have it."""
    with pq.ParquetFile(source) as file:
        if "extra" not in file.schema_arrow.names:
            return
        table = file.read(columns=["image_id", "extra"])
    values = pc.map_lookup(table["extra"], pa.scalar(column), "first")  # type: ignore[attr-defined]
    found = pa.table({"image_id": table["image_id"], "value": values}).drop_null()
    pictures = found.group_by("image_id", use_threads=False).aggregate([("value", "first")])
    yield from zip(*(column.to_pylist() for column in pictures.columns), strict=True)


def _listed(value: str, what: str) -> tuple[str, ...]:
    """One caption, or those of a JSON list; captions without a word are left out."""
    found: Any = [value]
    if value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except ValueError:
            found = [value]
    if not all(isinstance(text, str) for text in found):
        raise LmmsteerError(
            f"In {what} there is something else than text: {value[:80]!r}.",
            "Give a caption, or a JSON list of captions.",
        )
    return tuple(text for text in found if split(text))


def read(path: Path) -> Captions:
    """The captions of a file.

    Raises: LmmsteerError where it cannot be read, or a row lacks its picture or its caption.
    """
    try:
        rows = _rows(path)
        found: dict[str, list[str]] = {}
        for where, names, caption in rows:
            if not names or not isinstance(caption, str) or not split(caption):
                raise ValueError(f"{where} has no {'caption' if names else 'image_id'}")
            for name in names:
                found.setdefault(name, []).append(caption)
    except (OSError, ValueError, pa.ArrowException) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        why = " ".join(said.split()).rstrip(".")
        raise LmmsteerError(f"analysis.references={path} cannot be read: {why}.", MEND) from error
    if not found:
        raise LmmsteerError(f"analysis.references={path} holds no caption.", MEND)
    return {name: tuple(captions) for name, captions in found.items()}


Row = tuple[str, list[str], Any]  # where it stands, names of its picture, caption


def _rows(path: Path) -> Iterable[Row]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _table("row", enumerate(pq.read_table(path).to_pylist(), start=1))
    if suffix == ".csv":
        return _table("line", texts.csv_rows(texts.from_utf8(path.read_bytes())))
    if suffix != ".json":
        raise ValueError("it is none of .parquet, .csv and .json")
    whole = json.loads(texts.from_utf8(path.read_bytes()))
    if isinstance(whole, dict):
        return _coco(whole)
    if not isinstance(whole, list) or not all(isinstance(row, dict) for row in whole):
        raise ValueError("it is no list of objects, and not one of COCO's captions_*.json")
    return _table("item", enumerate(whole, start=1))


def _table(unit: str, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[Row]:
    for number, row in rows:
        absent = [name for name in ("image_id", "caption") if name not in row]
        if absent:
            raise ValueError(f"{unit} {number} has no column {absent[0]}")
        yield f"{unit} {number}", _names(row["image_id"]), row["caption"]


def _coco(whole: Mapping[str, Any]) -> Iterator[Row]:
    try:
        files = {image["id"]: image["file_name"] for image in whole["images"]}
        for number, row in enumerate(whole["annotations"], start=1):
            names = _names(row["image_id"]) + _names(files.get(row["image_id"]))
            yield f"annotation {number}", list(dict.fromkeys(names)), row["caption"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"it has no {error}, as COCO's captions_*.json have") from error


def _names(value: Any) -> list[str]:
    return [] if value is None or value == "" else [str(value)]
