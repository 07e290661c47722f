"""What must hold of the rows of a response part. Every function raises Wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute

from lmmsteer.fleet.footers import failed_counts
from lmmsteer.fleet.verify.contents import Part, check_digest
from lmmsteer.fleet.verify.faults import Wrong

pc: Any = pyarrow.compute  # Its functions are made at run time.
IDS = ["row_id", "image_id", "prompt_id", "seed"]
REASONS = pa.array(["eos", "length"])


def check_answers(part: Part, rows: pa.Table | None) -> None:
    """The manifest's rows in its order; a text or a reason, never both; the footer's counts.

    rows: of the shard, where the manifest has them.
    """
    check_digest(part)
    if rows is not None:
        _compare_ids(part.table, rows)
    elif pc.count_distinct(part.table.column("row_id")).as_py() != part.table.num_rows:
        raise Wrong("inconsistent", "holds a row id twice")
    for breach, rule in _breaches(part.table):
        at = pc.index(breach, True).as_py()
        if at >= 0:
            raise Wrong("inconsistent", f"holds {rule} (row {at + 1})")
    _check_failed(part.table, part.meta)


def _compare_ids(table: pa.Table, rows: pa.Table) -> None:
    mine, planned = table.select(IDS), rows.select(IDS)
    if mine.equals(planned):
        return
    if mine.num_rows != planned.num_rows:
        why = f"has {mine.num_rows} rows, and the manifest {planned.num_rows}"
    else:
        pairs = zip(mine.to_pylist(), planned.to_pylist(), strict=True)
        at = next(n for n, (one, other) in enumerate(pairs, 1) if one != other)
        why = f"holds other rows than the manifest (from row {at})"
    raise Wrong("misplaced", why)


def _breaches(table: pa.Table) -> Iterator[tuple[pa.ChunkedArray, str]]:
    """Which rows break a rule, and the rule."""
    failed = table.column("error_kind").is_valid()
    tokens, count = table.column("token_ids"), table.column("new_tokens")
    reason = table.column("finish_reason")
    yield pc.not_equal(table.column("error").is_valid(), failed), "an error without a kind"
    yield pc.equal(table.column("text").is_valid(), failed), "a text beside an error, or neither"
    yield pc.equal(reason.is_valid(), failed), "a finish_reason beside an error, or neither"
    known = pc.is_in(reason, value_set=REASONS)
    yield pc.and_(reason.is_valid(), pc.invert(known)), "an unknown finish_reason"
    yield pc.not_equal(tokens.is_valid(), count.is_valid()), "token_ids without new_tokens"
    yield pc.invert(pc.or_(tokens.is_valid(), failed)), "an answer without token_ids"
    other = pc.fill_null(pc.not_equal(pc.list_value_length(tokens), count), False)
    yield other, "token_ids of another number than new_tokens"


def _check_failed(table: pa.Table, meta: Mapping[str, str]) -> None:
    found = Counter(k for k in table.column("error_kind").to_pylist() if k is not None)
    try:
        said = failed_counts(meta)
    except ValueError as error:
        raise Wrong("inconsistent", f"has no count of its failed rows: {error}") from error
    if said != dict(found):
        raise Wrong("inconsistent", f"counts failed rows as {said}, and they are {dict(found)}")
