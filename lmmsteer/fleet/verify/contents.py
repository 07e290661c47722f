"""What must hold of one part: its bytes, its footer, its rows, and its place.

Shares with the writer the schemas, the row ids, the digest and what a prompt asks of a picture, and
nothing else. Every function raises Wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from lmmsteer import seal
from lmmsteer.fleet.verify.faults import Wrong
from lmmsteer.prompts import Question, asks_labels, questions
from lmmsteer.schema import LABELS, ROWS, SCHEMA_VERSION, content_digest, row_ids

pc: Any = pyarrow.compute  # Its functions are made at run time.
KEYS = {f"lmmsteer.{key}" for key in ("schema", "fingerprint", "digest", "rows", "failed")}


@dataclass(frozen=True)
class Part:
    """A part that is what was written. sealed: whether that was known of every byte."""

    table: pa.Table
    meta: Mapping[str, str]
    sealed: bool


class Foreign(Wrong):
    """A Parquet file without any footer key of ours."""


def open_part(data: bytes, schema: pa.Schema) -> Part:
    """A part's rows, after seal, page checksums, versions, columns and row count were checked."""
    if not data:
        raise Wrong("damaged", "is empty")
    sealed = seal.holds(data)
    if sealed is False:
        raise Wrong("damaged", "is damaged: its bytes are not those that were written")
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        table = file.read(use_threads=False)
        table.validate(full=True)
        pairs = {**(table.schema.metadata or {}), **(file.metadata.metadata or {})}
        meta = {k.decode(): v.decode() for k, v in pairs.items() if k != b"ARROW:schema"}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Wrong("damaged", f"is damaged: {error}") from error
    if not any(key.startswith("lmmsteer.") for key in meta):
        raise Foreign("misplaced", "was not written by lmmsteer")
    if not sealed and not set(meta) <= KEYS:
        raise Wrong("damaged", "is damaged: its footer is not the one that was written")
    _check_version(meta, sealed is True)
    table = table.replace_schema_metadata(None)
    if not table.schema.equals(schema):
        raise Wrong("damaged", "is damaged: its columns are not those of this version")
    if meta.get("lmmsteer.rows") != str(table.num_rows):
        raise Wrong("damaged", "is damaged: its footer counts other rows than it has")
    return Part(table, meta, sealed is True)


def check_digest(part: Part, table: pa.Table | None = None) -> None:
    """The rows are those that the footer's digest is of. table: the same with bytes as digests."""
    if part.meta.get("lmmsteer.digest") != content_digest(part.table if table is None else table):
        raise Wrong("damaged", "is damaged: its rows do not match its digest")


def check_fingerprint(part: Part, expected: str | None) -> None:
    """The part was made by the config that is recorded, where that is known."""
    found = part.meta.get("lmmsteer.fingerprint", "")
    if expected is not None and found != expected:
        raise Wrong(
            "misplaced",
            f"was made by another config (fingerprint {found[:12]}, not {expected[:12]})",
        )


def check_recorded(part: Part, rows: int, digest: str) -> None:
    """The part is the one that `_manifest.json` names."""
    if (part.table.num_rows, part.meta.get("lmmsteer.digest")) != (rows, digest):
        raise Wrong("misplaced", "holds other rows than _manifest.json records for it")


def check_images(part: Part) -> None:
    """Digests of the pictures; a picture or the reason why there is none; no id twice."""
    table = part.table
    cells = table.column("bytes")
    hashed = [hashlib.sha256(c.as_buffer()).hexdigest() if c.is_valid else None for c in cells]
    text = pa.array(hashed, pa.string())
    check_digest(part, table.set_column(table.column_names.index("bytes"), "bytes", text))
    if table.column("sha256").to_pylist() != hashed:
        raise Wrong("inconsistent", "holds a picture whose sha256 is another")
    if pc.any(pc.equal(cells.is_valid(), table.column("error_kind").is_valid())).as_py():
        raise Wrong("inconsistent", "holds a picture with an error, or none and no error")
    if pc.count_distinct(table.column("image_id")).as_py() != table.num_rows:
        raise Wrong("inconsistent", "holds an image id twice")


def check_rows(part: Part, images: pa.Table | None, identity: Mapping[str, Any] | None) -> None:
    """Every picture with every prompt and seed, in order, under the row id that they hash to."""
    check_digest(part)
    if pc.count_distinct(part.table.column("row_id")).as_py() != part.table.num_rows:
        raise Wrong("inconsistent", "holds a row id twice")
    if images is None or identity is None:
        return
    names = images.column("image_id").to_pylist()
    each = _questions(part.table, names, identity)
    if part.table.num_rows != sum(map(len, each)):
        raise Wrong("inconsistent", "holds another number of rows than its pictures and prompts")
    pictures = zip(names, images.column("sha256").to_pylist(), strict=True)
    asked = list(chain(*each))
    expected = {
        "row_id": [
            row
            for picture, mine in zip(pictures, each, strict=True)
            for row in row_ids([picture], [(text, seed) for _, text, seed in mine])
        ],
        "image_id": [name for name, mine in zip(names, each, strict=True) for _ in mine],
        "prompt_id": [key for key, _, _ in asked],
        "seed": [seed for _, _, seed in asked],
    }
    same = {
        name: part.table.column(name).equals(pa.chunked_array([values], ROWS.field(name).type))
        for name, values in expected.items()
    }
    # One by one: a prompt of a megabyte is not copied for every row.
    prompts = part.table.column("prompt")
    same["prompt"] = all(
        one.as_py() == text for one, (_, text, _) in zip(prompts, asked, strict=True)
    )
    for name, right in same.items():
        if not right:
            raise Wrong("inconsistent", f"holds another {name} than its pictures and prompts have")


def _questions(
    table: pa.Table, names: Sequence[str], identity: Mapping[str, Any]
) -> list[list[Question]]:
    """What each picture is to be asked, by the labels of its first row."""
    prompts, seeds = identity["prompts"], identity["seeds"]
    if not asks_labels(prompts):
        return [questions(prompts, seeds, {})] * len(names)
    labels: dict[str, dict[str, str | None]] = {}
    for row in table.select(["image_id", *LABELS]).to_pylist():
        labels.setdefault(row.pop("image_id"), row)
    return [questions(prompts, seeds, labels.get(name, {})) for name in names]


def _check_version(meta: Mapping[str, str], sealed: bool) -> None:
    found = meta.get("lmmsteer.schema", "none")
    if found == str(SCHEMA_VERSION):
        return
    if not sealed:
        raise Wrong("damaged", f"is damaged: schema version {found}")
    raise Wrong("version", f"has schema version {found}, and this lmmsteer has {SCHEMA_VERSION}")
