"""A file that holds the sha256 of itself, so that any flipped bit in it is found.

The 64 digits behind MARK count as zeros while the digest is made. Parts carry the seal in their
footer, records as their first key: what a cut takes away besides, the rest of it does not fit.
Any program can check it. Files of older versions have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

MARK = b"sha256, its own digits as zeros: "
ZEROS = b"0" * 64
OPEN = (MARK + ZEROS).decode()  # What a file holds before it is sealed.


def close(data: bytes) -> bytes:
    """The same bytes with the digest in the place of the zeros of OPEN."""
    start, end = _digits(data, _find(data))
    return b"".join((data[:start], hashlib.sha256(data).hexdigest().encode(), data[end:]))


def holds(data: bytes) -> bool | None:
    """Whether the bytes are those that were sealed; None where there is no seal."""
    at = _find(data)
    if at < 0:
        return None
    start, end = _digits(data, at)
    view = memoryview(data)
    digest = hashlib.sha256(view[:start])
    digest.update(ZEROS)
    digest.update(view[end:])
    return digest.hexdigest().encode() == data[start:end]


def write_record(record: Mapping[str, Any]) -> bytes:
    """A JSON record with its seal."""
    text = json.dumps({"seal": OPEN, **record}, indent=1, ensure_ascii=False)
    return close(text.encode())


def read_record(data: bytes) -> dict[str, Any]:
    """A JSON record without its seal. Raises ValueError where it is not what was written."""
    try:
        record = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    sealed = record.pop("seal", None) is not None
    if holds(data) is not (True if sealed else None):
        raise ValueError("its bytes are not those that were written")
    return record


def _find(data: bytes) -> int:
    """Where the seal begins: rows of a part, and texts of a record, may hold MARK as well."""
    return data.find(MARK) if data.startswith(b"{") else data.rfind(MARK)


def _digits(data: bytes, at: int) -> tuple[int, int]:
    start = at + len(MARK)
    return start, start + len(ZEROS)
