import hashlib
import json

import pyarrow as pa
import pytest

from lmmsteer.schema import (
    IMAGES,
    RESPONSES,
    ROWS,
    Picture,
    Request,
    Response,
    content_digest,
    from_table,
    row_id,
    to_table,
)

REQUEST = Request("0" * 32, "a.png", "p", "Say.", 7, gender="woman", extra={"b": "2", "a": "1"})


@pytest.mark.parametrize(
    ("item", "schema"),
    [
        (REQUEST, ROWS),
        (Response("r", "a.png", "p", 1, "Hi.", [1, 2], 2, "eos"), RESPONSES),
        (Response.failed(REQUEST, "picture_broken", "no picture"), RESPONSES),
        (Picture("a.png", b"\x00\xff", "ab"), IMAGES),
        (Picture("a.png", None, None, "picture_missing", "gone"), IMAGES),
    ],
)
def test_rows_come_back_from_arrow_as_they_went_in(item: object, schema: pa.Schema) -> None:
    table = to_table([item], schema)  # type: ignore[list-item]
    assert table.schema.equals(schema)
    assert from_table(table, type(item)) == [item]


def test_a_failed_response_has_a_reason_and_no_text() -> None:
    failed = Response.failed(REQUEST, "nonfinite", "step 3")
    assert failed.text is None
    assert failed.token_ids is None
    assert (failed.error_kind, failed.error) == ("nonfinite", "step 3")
    assert (failed.row_id, failed.seed) == (REQUEST.row_id, REQUEST.seed)


def test_a_row_id_is_the_blake2b_of_image_id_picture_prompt_and_seed() -> None:
    key = '["a.png", "ab", "Say \\u00e9.", 7]'
    expected = hashlib.blake2b(key.encode("ascii"), digest_size=16).hexdigest()
    assert row_id("a.png", "ab", "Say é.", 7) == expected
    assert len(expected) == 32


@pytest.mark.parametrize("other", [("b.png", "ab", "p", 7), ("a.png", None, "p", 7)])
def test_a_row_id_changes_with_each_part(other: tuple[str, str | None, str, int]) -> None:
    assert row_id(*other) != row_id("a.png", "ab", "p", 7)


def test_the_content_digest_can_be_recomputed_from_json_lines() -> None:
    table = to_table([Response("r", "a.png", "p", 1, "Hé", [1], 1, "eos")], RESPONSES)
    row = ["r", "a.png", "p", 1, "Hé", [1], 1, "eos", None, None]
    line = json.dumps(row, separators=(",", ":")) + "\n"
    assert content_digest(table) == hashlib.sha256(line.encode()).hexdigest()


def test_the_content_digest_notices_a_changed_order() -> None:
    rows = [Response(str(i), "a", "p", i, "x", [], 0, "eos") for i in range(2)]
    there, back = to_table(rows, RESPONSES), to_table(rows[::-1], RESPONSES)
    assert content_digest(there) != content_digest(back)
