"""What a constrained answer may look like, byte by byte: an automaton from a small JSON schema.

JSON is in one spelling, that of Python's json.dumps: a space behind each comma and colon, no other
outside strings, properties in the order of the schema. Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmmsteer.errors import LmmsteerError

DIGITS = 9  # Of a whole number, at most: below 2^31.
HEX = b"0123456789abcdefABCDEF"
SURROGATES = b"dD"  # \uD800 to \uDFFF are no characters.


@dataclass
class Automaton:
    """States by number, each with where its bytes lead; `start` is where an answer begins and `end`
    where it is whole, the only state that it may stop in."""

    moves: list[dict[int, int]] = field(default_factory=lambda: [{}])
    start: int = 0
    end: int = 0

    def reads(self, data: bytes) -> int | None:
        """The state behind these bytes, from the start; None where they do not belong."""
        state: int | None = self.start
        for byte in data:
            state = None if state is None else self.moves[state].get(byte)
        return state

    def _state(self, moves: Mapping[int, int]) -> int:
        self.moves.append(dict(moves))
        return len(self.moves) - 1

    def _text(self, text: str, after: int) -> int:
        """Exactly this text, then `after`."""
        for byte in reversed(text.encode()):
            after = self._state({byte: after})
        return after

    def _either(self, entries: Sequence[int]) -> int:
        """One of several, told apart by their first byte."""
        merged: dict[int, int] = {}
        for entry in entries:
            for byte, to in self.moves[entry].items():
                if merged.setdefault(byte, to) != to:
                    raise LmmsteerError(
                        f"Two answers begin with {chr(byte)!r}, so they cannot be told apart.",
                        "Give answers with different first letters.",
                    )
        return self._state(merged)

    def _spaced(self, entry: int) -> int:
        """The same, perhaps behind one space: many tokenizers begin an answer with it."""
        return self._either([entry, self._state({ord(" "): entry})])

    def _string(self, after: int) -> int:
        """A JSON string: UTF-8, escapes that are characters, no control characters."""
        inside = self._state({})
        moves = self.moves[inside]
        moves |= {byte: inside for byte in range(0x20, 0x80) if byte not in b'"\\'}
        moves[ord('"')] = after
        moves[ord("\\")] = self._escape(inside)
        tail = [inside]  # so many continuation bytes are left
        for _ in range(3):
            tail.append(self._state(dict.fromkeys(range(0x80, 0xC0), tail[-1])))
        moves |= dict.fromkeys(range(0xC2, 0xE0), tail[1])
        moves |= dict.fromkeys(range(0xE1, 0xF0), tail[2])
        moves |= dict.fromkeys(range(0xF1, 0xF4), tail[3])
        # The first continuation byte where longer spellings, surrogates and the end are left out.
        for first, low, high, rest in (
            (0xE0, 0xA0, 0xC0, tail[1]),
            (0xED, 0x80, 0xA0, tail[1]),
            (0xF0, 0x90, 0xC0, tail[2]),
            (0xF4, 0x80, 0x90, tail[2]),
        ):
            moves[first] = self._state(dict.fromkeys(range(low, high), rest))
        return self._state({ord('"'): inside})

    def _escape(self, inside: int) -> int:
        last = self._state(dict.fromkeys(HEX, inside))
        two = self._state(dict.fromkeys(HEX, last))
        three = self._state(dict.fromkeys(HEX, two))
        low = self._state(dict.fromkeys(b"01234567", two))  # Behind \uD: no surrogate.
        first = {byte: three for byte in HEX if byte not in SURROGATES}
        escaped = dict.fromkeys(b'"\\/bfnrt', inside)
        escaped[ord("u")] = self._state({**first, **dict.fromkeys(SURROGATES, low)})
        return self._state(escaped)

    def _natural(self, after: int) -> int:
        """A whole number from 0 on, without leading zeros, of DIGITS digits at most."""
        rest = after
        for _ in range(DIGITS - 1):
            rest = self._state({**self.moves[after], **dict.fromkeys(b"0123456789", rest)})
        return self._state({ord("0"): after, **dict.fromkeys(b"123456789", rest)})

    def _array(self, items: Mapping[str, Any], after: int) -> int:
        comma = self._state({})
        more = self._state({ord("]"): after, ord(","): comma})
        item = self._value(items, more)
        self.moves[comma][ord(" ")] = item
        first = self._either([item, self._state({ord("]"): after})])
        return self._state({ord("["): first})

    def _object(self, schema: Mapping[str, Any], after: int) -> int:
        properties = schema.get("properties") or {}
        if sorted(properties) != sorted(schema.get("required") or []) or not properties:
            raise _unknown("an object whose properties are not all required")
        entry = self._text("}", after)
        for at, (name, value) in reversed(list(enumerate(properties.items()))):
            opening = "{" if at == 0 else ", "
            entry = self._text(f'{opening}"{name}": ', self._value(value, entry))
        return entry

    def _value(self, schema: Mapping[str, Any], after: int) -> int:
        kind = schema.get("type")
        if kind == "object":
            return self._object(schema, after)
        if kind == "array":
            return self._array(schema["items"], after)
        if kind == "string":
            return self._string(after)
        if kind == "integer" and schema.get("minimum") == 0:
            return self._natural(after)
        raise _unknown(f"type {kind!r}")


def of_schema(schema: Mapping[str, Any]) -> Automaton:
    """JSON of a schema: objects whose properties are all required, arrays, strings, whole numbers
    from 0 on. Raises: LmmsteerError for anything else."""
    made = Automaton()
    made.start = made._spaced(made._value(schema, made.end))
    return made


def of_choices(choices: Sequence[str]) -> Automaton:
    """One of several texts with different first letters. Raises: LmmsteerError for others."""
    made = Automaton()
    made.start = made._spaced(made._either([made._text(text, made.end) for text in choices]))
    return made


def edges(automaton: Automaton) -> Iterator[tuple[int, int, int]]:
    """State, byte, next state."""
    for state, moves in enumerate(automaton.moves):
        for byte, to in moves.items():
            yield state, byte, to


def _unknown(what: str) -> LmmsteerError:
    return LmmsteerError(
        f"Answers cannot be constrained to a schema with {what}.",
        "Use objects with required properties, arrays, strings, and integers with minimum 0.",
    )
