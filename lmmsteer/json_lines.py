"""The rows of a table as JSON lines, worked out column by column.

Each row is a JSON list in column order, ASCII, without spaces, one line each: what json.dumps
writes, character for character. A binary value stands as the hex sha256 of its bytes.
pyarrow is imported with the first table, so that engines run where it is not installed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    Pieces = list[pa.Array | str]

BYTES_AT_ONCE = 1 << 24
UNESCAPED = bytes(code for code in range(0x20, 0x7F) if code not in b'"\\')


def json_lines(table: pa.Table) -> Iterator[pa.Buffer]:
    """The lines of all rows, in buffers that hold whole rows each."""
    per_row = table.nbytes // max(table.num_rows, 1)
    for batch in table.to_batches(max_chunksize=max(1, BYTES_AT_ONCE // max(per_row, 1024))):
        cells = [piece for column in batch.columns for piece in (",", *_pieces(column))]
        yield _text(_joined(["[", *cells[1:], "]\n"], len(batch)))


def _pieces(values: pa.Array) -> Pieces:
    """Arrays of text and constants that, side by side, are the JSON of each value."""
    pc = _compute()

    if values.null_count == len(values):
        return ["null"]
    pieces = _valid(values)
    if values.null_count == 0:
        return pieces
    return [pc.if_else(values.is_valid(), _joined(pieces, len(values)), _constant("null"))]


def _valid(values: pa.Array) -> Pieces:
    """The same; what stands at a null does not matter."""
    import pyarrow as pa

    kind = values.type
    if pa.types.is_string(kind):
        return _quoted(values)
    if pa.types.is_integer(kind):
        return [values.cast(pa.large_string())]
    if pa.types.is_map(kind):
        keys, items = _pieces(_inner(values, values.keys)), _pieces(_inner(values, values.items))
        return _listed(values, ["[", *keys, ",", *items, "]"])
    if pa.types.is_list(kind):
        return _listed(values, _pieces(_inner(values, values.values)))
    return [pa.array([_dumped(value) for value in values.to_pylist()], pa.large_string())]


def _quoted(values: pa.Array) -> Pieces:
    """Strings between quotes; one by one only where any has a character to escape."""
    import pyarrow as pa

    text = values.cast(pa.large_string())
    if not _text(text).to_pybytes().translate(None, UNESCAPED):
        return ['"', text, '"']
    escaped = [v if v is None else encode_basestring_ascii(v) for v in values.to_pylist()]
    return [pa.array(escaped, pa.large_string())]


def _listed(values: pa.Array, elements: Pieces) -> Pieces:
    """Lists of what the pieces of their elements say."""
    import pyarrow as pa

    pc = _compute()
    starts = pc.subtract(values.offsets, values.offsets[0]).cast(pa.int64())
    lists = pa.LargeListArray.from_arrays(starts, _joined(elements, starts[-1].as_py()))
    return ["[", pc.binary_join(lists, _constant(",")), "]"]


def _inner(values: pa.Array, elements: pa.Array) -> pa.Array:
    """Of all elements of a list array, those that this slice of it shows."""
    first, last = values.offsets[0].as_py(), values.offsets[len(values)].as_py()
    return elements.slice(first, last - first)


def _joined(pieces: Pieces, rows: int) -> pa.Array:
    """The pieces of each row side by side."""
    import pyarrow as pa

    pc = _compute()
    texts: list[pa.Array | pa.Scalar] = []
    for constant, run in groupby(pieces, lambda piece: isinstance(piece, str)):
        run = list(run)
        texts += [_constant("".join(run))] if constant else run  # type: ignore[arg-type]
    if len(texts) == 1 and isinstance(texts[0], pa.Scalar):
        return pa.repeat(texts[0], rows)
    return pc.binary_join_element_wise(*texts, _constant(""))


@cache
def _constant(text: str) -> pa.Scalar:
    import pyarrow as pa

    return pa.scalar(text, pa.large_string())


def _text(texts: pa.Array) -> pa.Buffer:
    """The texts of a large_string array, one after the other."""
    import numpy as np
    import pyarrow as pa

    _, starts, data = texts.buffers()
    if data is None:
        return pa.py_buffer(b"")
    ends = np.frombuffer(starts, np.int64)[[texts.offset, texts.offset + len(texts)]]
    return data.slice(int(ends[0]), int(ends[1] - ends[0]))


def _compute() -> Any:
    """pyarrow.compute, whose functions no type checker knows: they are made when it is imported."""
    import pyarrow.compute

    return pyarrow.compute


def _dumped(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = hashlib.sha256(value).hexdigest()
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))
