"""Parquet parts read piece by piece: named columns alone, by ranged reads, never a whole part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import RESPONSES
from lmmsteer.store import Store, Unreadable


@contextmanager
def opened(store: Store, path: str) -> Iterator[pq.ParquetFile]:
    """A part to read from. Raises: LmmsteerError where it is damaged, by name."""
    try:
        with store.open_input(path) as source, pq.ParquetFile(source) as part:
            yield part
    except Unreadable:
        raise
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        raise damaged(store, path, error) from error


def pieces(
    store: Store, path: str, columns: Sequence[str], optional: Sequence[str], rows: int
) -> Iterator[pl.DataFrame]:
    """Frames of at most so many rows, in the order of the part; an empty one of an empty part.

    columns: those that are there in every part; optional: those that are read where they are.
    Raises: LmmsteerError for a damaged part or a missing column.
    """
    with opened(store, path) as part:
        names = part.schema_arrow.names
        absent = [name for name in columns if name not in names]
        if absent:
            raise lacking(store, path, absent[0])
        wanted = [*columns, *(name for name in optional if name in names)]
        if not part.metadata.num_rows:
            yield _frame(part.schema_arrow.empty_table().select(wanted))
        for batch in part.iter_batches(rows, columns=wanted):
            yield _frame(pa.Table.from_batches([batch]).select(wanted))


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def complete(part: pq.ParquetFile, column: str) -> bool:
    """Whether the footer says that no value of the column is null."""
    at = {part.metadata.schema.column(i).path: i for i in range(part.metadata.num_columns)}[column]
    groups = (part.metadata.row_group(i).column(at) for i in range(part.metadata.num_row_groups))
    return all(
        group.is_stats_set and group.statistics.has_null_count and not group.statistics.null_count
        for group in groups
    )


def lacking(store: Store, path: str, column: str) -> LmmsteerError:
    return LmmsteerError(
        f"{store.root}/{path} lacks a column: {column}.",
        f"Answers need the columns {', '.join(RESPONSES.names)}.",
    )


def damaged(store: Store, path: str, why: object) -> LmmsteerError:
    reason = " ".join(str(why).split())
    return LmmsteerError(
        f"{store.root}/{path} is damaged: {reason}.",
        f"Move it to {store.root}/trash, then make it anew: lmmsteer resume out={store.root}",
    )
