"""The nouns that travel from a manifest to a table: Request, Response, Cell; their Arrow schemas.

Knows nothing of files, models or Ray. A column added here is a new SCHEMA_VERSION. pyarrow is
imported with the first schema or table, so that engines run where it is not installed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from lmmsteer.json_lines import json_lines

if TYPE_CHECKING:
    import pyarrow as pa

    ROWS: pa.Schema
    IMAGES: pa.Schema
    RESPONSES: pa.Schema

SCHEMA_VERSION = 1

T = TypeVar("T")

LABELS = ("race", "gender", "age", "body_type", "skin_tone", "occupation")


@cache
def _schemas() -> dict[str, pa.Schema]:
    import pyarrow as pa

    string = pa.string()
    ids = [pa.field(n, string, nullable=False) for n in ("row_id", "image_id", "prompt_id")]
    rows = [
        *ids,
        pa.field("prompt", string, nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("group_id", string),
        *(pa.field(label, string) for label in LABELS),
        pa.field("extra", pa.map_(string, string)),
    ]
    images = [
        pa.field("image_id", string, nullable=False),
        pa.field("bytes", pa.binary()),
        pa.field("sha256", string),
        pa.field("error_kind", string),
        pa.field("error", string),
    ]
    responses = [
        *ids,
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("text", string),
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("new_tokens", pa.int32()),
        pa.field("finish_reason", string),
        pa.field("error", string),
        pa.field("error_kind", string),
    ]
    named = {"ROWS": rows, "IMAGES": images, "RESPONSES": responses}
    return {name: pa.schema(columns) for name, columns in named.items()}


def __getattr__(name: str) -> Any:
    """ROWS, IMAGES and RESPONSES: the Arrow schemas, made when first asked for (PEP 562)."""
    if name in ("ROWS", "IMAGES", "RESPONSES"):
        return _schemas()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True)
class Picture:
    """One picture of a data set: the original file's bytes, or why there are none."""

    image_id: str
    bytes: bytes | None
    sha256: str | None
    error_kind: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Request:
    """One row to answer: a picture, a prompt, a seed, and whose they are."""

    row_id: str
    image_id: str
    prompt_id: str
    prompt: str
    seed: int
    group_id: str | None = None
    race: str | None = None
    gender: str | None = None
    age: str | None = None
    body_type: str | None = None
    skin_tone: str | None = None
    occupation: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """The answer to one row: the request's identity and `text` or an `error_kind`, never both.

    token_ids: what was generated, without the final end-of-sequence id; new_tokens: its length.
    finish_reason: `eos`, `length`, or None where the row failed.
    """

    row_id: str
    image_id: str
    prompt_id: str
    seed: int
    text: str | None = None
    token_ids: list[int] | None = None
    new_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None
    error_kind: str | None = None

    @classmethod
    def failed(cls, request: Request, kind: str, error: str) -> Response:
        """The response of a row that could not be answered: no text, a reason."""
        ids = (request.row_id, request.image_id, request.prompt_id, request.seed)
        return cls(*ids, error=error, error_kind=kind)


@dataclass(frozen=True)
class Cell:
    """The unit of a sweep, of a folder and of a table row, with the config that defines it."""

    model: str
    method: str
    attribute: str
    dataset: str
    config: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def folder(self) -> str:
        """Its place below `out`: responses/model=M/method=X/attribute=A/dataset=D."""
        return (
            f"responses/model={self.model}/method={self.method}"
            f"/attribute={self.attribute}/dataset={self.dataset}"
        )

    def __str__(self) -> str:
        return f"{self.model} {self.method} {self.attribute} {self.dataset}"


def row_id(image_id: str, picture_sha256: str | None, prompt: str, seed: int) -> str:
    """The identity of a row: 32 hex digits of a hash of image id, picture bytes, prompt and seed.

    blake2b-128 over the JSON list [image_id, sha256 of the bytes or null, prompt, seed].
    """
    key = json.dumps([image_id, picture_sha256, prompt, seed], ensure_ascii=True)
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def row_ids(
    pictures: Iterable[tuple[str, str | None]], questions: Iterable[tuple[str, int]]
) -> list[str]:
    """row_id of every picture (image id, sha256) with every question (prompt, seed).

    The questions vary fastest. Each key's JSON is put together of a picture's and a question's.
    """
    heads = [(json.dumps(picture)[:-1] + ", ").encode() for picture in pictures]
    tails = [json.dumps(question)[1:].encode() for question in questions]
    hashed = hashlib.blake2b
    return [hashed(head + tail, digest_size=16).hexdigest() for head in heads for tail in tails]


def to_table(items: Iterable[Request | Response | Picture], schema: pa.Schema) -> pa.Table:
    """Rows of one schema as an Arrow table, columns in the schema's order."""
    import pyarrow as pa

    rows = list(items)
    columns = [pa.array(_column(rows, f), f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(rows: list[Any], column: pa.Field) -> list[Any]:
    import pyarrow as pa

    values = list(map(attrgetter(column.name), rows))
    if pa.types.is_map(column.type):
        return [sorted(value.items()) for value in values]
    return values


def from_table(table: pa.Table, kind: type[T]) -> list[T]:
    """The dataclass instances of a table; columns that the class does not have are left out."""
    names = [f.name for f in fields(kind) if f.name in table.column_names]  # type: ignore[arg-type]
    columns = [_values(table.column(name)) for name in names]
    if len(names) == len(fields(kind)):  # type: ignore[arg-type]
        return list(map(kind, *columns))
    return [kind(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    import pyarrow as pa

    values = column.to_pylist()
    if pa.types.is_map(column.type):
        return [dict(value or ()) for value in values]
    return values


def content_digest(table: pa.Table) -> str:
    """sha256 over the rows: each row a JSON list in column order, ASCII, one line each.

    Independent of the Parquet writer, so that any program can recompute it.
    """
    digest = hashlib.sha256()
    for lines in json_lines(table):
        digest.update(lines)
    return digest.hexdigest()
