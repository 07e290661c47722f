"""Parquet parts: written once, checked when read. The footer says what a part holds.

Footer keys: lmmsteer.schema (version), lmmsteer.fingerprint, lmmsteer.digest (of the rows:
schema.content_digest), lmmsteer.rows, and what the caller adds. Nothing about time, worker or
attempt is in a part.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import SCHEMA_VERSION, content_digest
from lmmsteer.store import Store

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
    return sink.getvalue()


def read_footer(store: Store, path: str) -> Footer:
    """The footer alone: for plans and status, which never need the rows."""
    local = store.local(path)
    try:
        source = local if local is not None else pa.BufferReader(store.read_bytes(path))
        metadata = pq.read_metadata(source)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(store, path, str(error)) from error
    pairs = (metadata.metadata or {}).items()
    meta = {k.decode(): v.decode() for k, v in pairs if k.startswith(b"lmmsteer.")}
    return Footer(metadata.num_rows, meta)


def read(store: Store, path: str, schema: pa.Schema) -> pa.Table:
    """All rows of a part, after its page checksums, schema, row count and digest were checked."""
    try:
        table = pq.read_table(
            pa.BufferReader(store.read_bytes(path)), page_checksum_verification=True
        )
    except FileNotFoundError as error:
        raise _damaged(store, path, "it is not there") from error
    except (pa.ArrowException, OSError) as error:
        raise _damaged(store, path, str(error)) from error
    meta = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    if meta.get("lmmsteer.schema") != str(SCHEMA_VERSION):
        found = meta.get("lmmsteer.schema", "none")
        raise _damaged(store, path, f"schema version {found}, not {SCHEMA_VERSION}")
    table = table.replace_schema_metadata(None)
    if not table.schema.equals(schema):
        raise _damaged(store, path, "its columns are not those of this version")
    if meta.get("lmmsteer.digest") != content_digest(table):
        raise _damaged(store, path, "its rows do not match its digest")
    return table


def _damaged(store: Store, path: str, why: str) -> DamagedPart:
    why = " ".join(why.split())
    return DamagedPart(
        f"{store.root}/{path} is damaged: {why}.",
        f"Move it to {store.root}/trash and run the same command again: it is made anew.",
    )
