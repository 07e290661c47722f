"""Parquet parts: written once, checked when read. The footer says what a part holds.

Footer keys: lmmsteer.schema (version), lmmsteer.fingerprint, lmmsteer.digest (of the rows:
schema.content_digest), lmmsteer.rows, lmmsteer.seal (of the whole file), and what the caller adds.
Nothing about time, worker or attempt is in a part.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmmsteer import seal
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import SCHEMA_VERSION, content_digest
from lmmsteer.store import Store, Unreadable

ROW_GROUP = 32_768


class DamagedPart(LmmsteerError):
    """A part that is not what its footer says, or no Parquet at all."""


@dataclass(frozen=True)
class Footer:
    """What a part says of itself, without its rows."""

    rows: int
    meta: Mapping[str, str]

    @property
    def fingerprint(self) -> str | None:
        return self.meta.get("lmmsteer.fingerprint")


def part_name(number: int) -> str:
    """part-00000.parquet, part-00001.parquet, ..."""
    return f"part-{number:05d}.parquet"


def to_bytes(table: pa.Table, fingerprint: str, extra: Mapping[str, str] | None = None) -> bytes:
    """A table as the bytes of a part: the same for the same rows, fingerprint and versions."""
    meta = {
        "lmmsteer.schema": str(SCHEMA_VERSION),
        "lmmsteer.fingerprint": fingerprint,
        "lmmsteer.digest": content_digest(table),
        "lmmsteer.rows": str(table.num_rows),
        **(extra or {}),
        "lmmsteer.seal": seal.OPEN,
    }
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(meta),
        sink,
        compression="zstd",
        compression_level=3,
        row_group_size=ROW_GROUP,
        version="2.6",
        data_page_version="1.0",
        use_dictionary=True,
        write_statistics=True,
        write_page_checksum=True,
        store_schema=True,
    )
    return seal.close(sink.getvalue())


def read_footer(store: Store, path: str) -> Footer:
    """The footer alone, from the end of the file: for plans and status, which need no rows."""
    try:
        with store.open_input(path) as file:
            return _footer(file)
    except Unreadable:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(store, path, str(error)) from error


def footer_of(data: bytes) -> Footer:
    """The footer of a part that was just made."""
    return _footer(pa.BufferReader(data))


def read_column(store: Store, path: str, column: str) -> list[Any]:
    """One column of a part, without reading the others; its page checksums are checked."""
    try:
        with store.open_input(path) as file:
            part = pq.ParquetFile(file, page_checksum_verification=True)
            return part.read([column]).column(column).to_pylist()
    except Unreadable:
        raise
    except (pa.ArrowException, OSError, KeyError) as error:
        raise damaged(store, path, str(error)) from error


def read(store: Store, path: str, schema: pa.Schema) -> pa.Table:
    """All rows of a part, after seal, page checksums, schema, row count and digest were checked."""
    try:
        data = store.read_bytes(path)
        sealed = seal.holds(data)
        if sealed is False:
            raise damaged(store, path, "its bytes are not those that were written")
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        meta = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    except FileNotFoundError as error:
        raise damaged(store, path, "it is not there") from error
    except Unreadable:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(store, path, str(error)) from error
    if sealed is None and "lmmsteer.seal" in meta:
        raise damaged(store, path, "its seal is broken")
    if meta.get("lmmsteer.schema") != str(SCHEMA_VERSION):
        found = meta.get("lmmsteer.schema", "none")
        raise damaged(store, path, f"schema version {found}, not {SCHEMA_VERSION}")
    table = table.replace_schema_metadata(None)
    if not table.schema.equals(schema):
        raise damaged(store, path, "its columns are not those of this version")
    if meta.get("lmmsteer.digest") != content_digest(table):
        raise damaged(store, path, "its rows do not match its digest")
    return table


def _footer(file: pa.NativeFile) -> Footer:
    reader = pq.core.ParquetReader()  # A third of the time of pq.read_metadata, which wraps it.
    reader.open(file)
    pairs = (reader.metadata.metadata or {}).items()
    meta = {k.decode(): v.decode() for k, v in pairs if k.startswith(b"lmmsteer.")}
    return Footer(reader.metadata.num_rows, meta)


def damaged(store: Store, path: str, why: str) -> DamagedPart:
    """The error of a part that cannot be used, in one sentence that names it."""
    why = " ".join(why.split())
    return DamagedPart(
        f"{store.root}/{path} is damaged: {why}.",
        f"Move it aside, and it is made anew: lmmsteer verify repair=true out={store.root}",
    )
