import hashlib
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmsteer import json_lines
from lmmsteer.json_lines import json_lines as lines_of
from lmmsteer.schema import IMAGES, RESPONSES, ROWS, content_digest, row_id, row_ids

# Arrow holds UTF-8, so no lone surrogates; pairs of them are how JSON writes what is beyond U+FFFF.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['"', "\\", "\x00", "\x7f", "\n\t\r\b\f", "\u2028", "é", "\U0001f600", "],[", "null", "", " "]
)


def of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Values of a column's type."""
    if pa.types.is_map(kind):
        return st.dictionaries(TEXT, TEXT | st.none(), max_size=3).map(lambda d: list(d.items()))
    if pa.types.is_list(kind):
        return st.lists(of(kind.value_type) | st.none(), max_size=4)
    if pa.types.is_int64(kind):
        return st.integers(-(2**63), 2**63 - 1)
    if pa.types.is_int32(kind):
        return st.integers(-(2**31), 2**31 - 1)
    return st.binary(max_size=8) if pa.types.is_binary(kind) else TEXT


def tables(schema: pa.Schema) -> st.SearchStrategy[pa.Table]:
    """Tables of up to 12 rows in one or two chunks, at times the middle of a larger one."""
    values = [of(f.type) | st.none() if f.nullable else of(f.type) for f in schema]
    rows = st.lists(st.tuples(*values), max_size=12)

    def table(rows: list[tuple[Any, ...]], first: int, last: int) -> pa.Table:
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in schema]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
        whole = pa.Table.from_arrays(arrays, schema=schema)
        return pa.concat_tables([whole.slice(first), whole.slice(0, last)])

    return st.builds(table, rows, st.integers(0, 3), st.integers(0, 5))


def plainly(table: pa.Table) -> bytes:
    """The same lines by json.dumps, a row at a time."""

    def plain(value: Any) -> Any:
        return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value

    rows = zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True)
    lines = (json.dumps([plain(value) for value in row], separators=(",", ":")) for row in rows)
    return "".join(line + "\n" for line in lines).encode()


ODD = pa.schema(
    [
        pa.field("a", pa.float64()),
        pa.field("b", pa.bool_()),
        pa.field("c", pa.list_(pa.list_(pa.string()))),
        pa.field("d", pa.uint8()),
    ]
)


@pytest.mark.parametrize("schema", [ROWS, IMAGES, RESPONSES], ids=["rows", "images", "responses"])
def test_lines_are_those_of_json_dumps_character_for_character(schema: pa.Schema) -> None:
    @settings(max_examples=120, deadline=None)
    @given(tables(schema))
    def check(table: pa.Table) -> None:
        expected = plainly(table)
        assert b"".join(buffer.to_pybytes() for buffer in lines_of(table)) == expected
        assert content_digest(table) == hashlib.sha256(expected).hexdigest()

    check()


def test_types_that_no_schema_of_ours_has_are_written_as_json_dumps_does() -> None:
    rows = [
        (0.1, True, [["a"], None, []], 7),
        (float("nan"), None, None, None),
        (1e22, False, [], 0),
    ]
    table = pa.Table.from_pylist([dict(zip("abcd", row, strict=True)) for row in rows], ODD)
    assert b"".join(b.to_pybytes() for b in lines_of(table)) == plainly(table)


def test_columns_of_nulls_alone_are_lines_of_nulls() -> None:
    table = pa.table({"a": pa.nulls(3, pa.string()), "b": pa.nulls(3, pa.int32())})
    assert b"".join(b.to_pybytes() for b in lines_of(table)) == b"[null,null]\n" * 3


def test_large_tables_are_written_in_pieces_of_whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "BYTES_AT_ONCE", 4096)
    table = pa.table({"a": ["é" * 700] * 10, "b": [[1], None] * 5})
    pieces = [buffer.to_pybytes() for buffer in lines_of(table)]
    assert len(pieces) > 4
    assert all(piece.endswith(b"]\n") for piece in pieces)
    assert b"".join(pieces) == plainly(table)


ANY_TEXT = st.text(max_size=8)  # Lone surrogates too: a file name may hold bytes of no encoding.


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(ANY_TEXT, st.none() | ANY_TEXT), max_size=3),
    st.lists(st.tuples(ANY_TEXT, st.integers(-(2**63), 2**63)), max_size=3),
)
def test_row_ids_of_many_are_those_of_each(
    pictures: list[tuple[str, str | None]], questions: list[tuple[str, int]]
) -> None:
    expected = [row_id(*picture, *question) for picture in pictures for question in questions]
    assert row_ids(pictures, questions) == expected
    for found, (picture, question) in zip(
        expected, ((p, q) for p in pictures for q in questions), strict=True
    ):
        key = json.dumps([*picture, *question]).encode()
        assert found == hashlib.blake2b(key, digest_size=16).hexdigest()
