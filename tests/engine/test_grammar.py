"""Automata of answers against Python's own JSON reader."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.judge.answer import SPANS_SCHEMA
from lmmsteer.engine.grammar import of_choices, of_schema
from lmmsteer.errors import LmmsteerError

SPANS = of_schema(SPANS_SCHEMA)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def whole(text: str) -> bool:
    return SPANS.reads(text.encode("utf-8", "surrogatepass")) == SPANS.end


@given(st.lists(TEXT), st.integers(0, 10**9 - 1), st.booleans(), st.booleans())
def test_every_answer_of_the_schema_belongs(
    spans: list[str], count: int, ascii_only: bool, spaced: bool
) -> None:
    text = json.dumps({"spans": spans, "count": count}, ensure_ascii=ascii_only)
    characters_alone = "\\ud" not in text.lower()  # Pairs of surrogates are written out instead.
    assert whole(" " * spaced + text) == characters_alone


@given(
    st.lists(st.text('a"\\u0dD9\x01é', max_size=6)),
    st.integers(0, 12),
    st.integers(0, 60),
    st.sampled_from(['"', "\\", ",", " ", "]", "}", "0", "1", "-", "\n", "é", ""]),
)
def test_what_belongs_is_json_of_the_schema(
    spans: list[str], count: int, at: int, put: str
) -> None:
    text = json.dumps({"spans": spans, "count": count}, ensure_ascii=False)
    broken = text[:at] + put + text[at + 1 :]
    if whole(broken):
        found = json.loads(broken)
        assert set(found) == {"spans", "count"}
        assert found["count"] >= 0
        assert all(isinstance(span, str) for span in found["spans"])
        "".join(found["spans"]).encode()  # No half of a pair.


@pytest.mark.parametrize(
    "text",
    [
        '{"spans": [,], "count": 0}',
        '{"spans": ["a",], "count": 0}',
        '{"spans": ["a" "b"], "count": 0}',
        '{"spans": ["\\ud800"], "count": 1}',
        '{"spans": ["\\x"], "count": 1}',
        '{"spans": ["\n"], "count": 1}',
        '{"spans": [], "count": 01}',
        '{"spans": [], "count": -1}',
        '{"spans": [], "count": 1.0}',
        '{"spans": [], "count": 1234567890}',
        '{"spans": []}',
        '{"count": 0, "spans": []}',
        '{"spans": [], "count": 0} ',
        '{"spans": [], "count": 0',
        '  {"spans": [], "count": 0}',
        "",
    ],
)
def test_nothing_else_is_whole(text: str) -> None:
    assert not whole(text)


@pytest.mark.parametrize(
    "data", [b"\x80", b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff"]
)
def test_bytes_that_are_no_characters_do_not_belong(data: bytes) -> None:
    assert SPANS.reads(b'{"spans": ["' + data) is None


def test_choices_are_told_apart_by_their_first_letter() -> None:
    made = of_choices(("Yes", "No"))
    assert [made.reads(t.encode()) == made.end for t in ("Yes", " Yes", "No", " No", "Ye")] == [
        *(True, True, True, True, False)
    ]
    with pytest.raises(LmmsteerError, match="begin with"):
        of_choices(("Yes", "Yeah"))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number"},
        {"type": "integer"},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": []},
        {},
    ],
)
def test_a_schema_beyond_the_few_kinds_is_refused(schema: dict[str, object]) -> None:
    with pytest.raises(LmmsteerError, match="cannot be constrained"):
        of_schema(schema)
