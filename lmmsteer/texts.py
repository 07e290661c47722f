"""Texts and tables that people bring along, and where in them something is not as it should be.

Every ValueError is a clause, and names the line: `line 7: byte 2 is 0xff, not UTF-8`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

MAX_FIELD = 1 << 26  # Characters of one CSV field; the csv module's own limit is 128 KiB.
MAX_SHOWN = 80
NEWLINE = b"\n"


def from_utf8(data: bytes) -> str:
    """The text of a file's bytes; a byte order mark is dropped.

    Raises: ValueError for bytes that are not UTF-8, and for null bytes.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it is UTF-16, not UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    at = data.find(b"\0")
    if at >= 0:
        raise ValueError(f"{_place(data, at)} is null")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        why = f"0x{data[error.start]:02x}, not UTF-8"
        raise ValueError(f"{_place(data, error.start)} is {why}") from error


def csv_rows(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row by the header's names, with the line on which it begins; blank lines are skipped.

    Raises: ValueError for a row with more or fewer fields than the header, for quotes that do not
    match, and for a column that stands twice.
    """
    csv.field_size_limit(MAX_FIELD)
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    begun = 0
    try:
        for row in lines:
            line, begun = begun + 1, lines.line_num
            if row and not header:
                header = _header(row, line)
            elif row:
                if len(row) != len(header):
                    raise ValueError(f"line {line}: {len(row)} fields, and {len(header)} columns")
                yield line, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ValueError(f"line {begun + 1}: {error}") from error


def json_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON object of each line, with the line's number; blank lines are skipped.

    Raises: ValueError for a line that is no JSON object, and for a key that stands twice in it.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from error
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        except RecursionError as error:
            raise ValueError(f"line {number}: nested too deeply") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number}: no JSON object")
        yield number, row


def _header(names: list[str], line: int) -> list[str]:
    try:
        refuse_twice(names)
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from error
    return names


def refuse_twice(names: Iterable[str]) -> None:
    """Raises: ValueError for a name of a column that stands twice: one of them would be lost."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{shown(name)} stands twice")
        seen.add(name)


def problem_of_name(name: str) -> str | None:
    """Why a text cannot be an id: a control character, or half of a surrogate pair."""
    for character in name if not name.isprintable() else "":
        if unicodedata.category(character) in ("Cc", "Cs"):
            return f"{shown(name)} holds {_named(character)}"
    return None


def problem_of_text(text: str) -> str | None:
    """Why a text cannot be stored: a null character, or half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{shown(text)} holds {_named(text[error.start])}"
    return f"{shown(text)} holds {_named(chr(0))}" if "\0" in text else None


def shown(text: str) -> str:
    """A text in quotes, on one line, and not at any length."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}...")


def _named(character: str) -> str:
    surrogate = unicodedata.category(character) == "Cs"
    kind = "half of a surrogate pair" if surrogate else "a control character"
    return f"{kind} (U+{ord(character):04X})"


def _place(data: bytes, at: int) -> str:
    before = data[:at]
    return f"line {before.count(NEWLINE) + 1}: byte {at - before.rfind(NEWLINE)}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    refuse_twice(key for key, _ in pairs)
    return dict(pairs)
