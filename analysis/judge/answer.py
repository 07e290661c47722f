"""What a judge's reply says: a verdict, or the kind of error it is. Never a zero for an error."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

SPANS_SCHEMA = {
    "type": "object",
    "properties": {
        "spans": {"type": "array", "items": {"type": "string"}},
        "count": {"type": "integer", "minimum": 0},
    },
    "required": ["spans", "count"],
    "additionalProperties": False,
}
SHOWN = 300  # characters of a message or reply that are kept
ANSWERED = (  # the server answered, and was paid: asked again only when told to
    "refusal",
    "content_filter",
    "truncated",
    "bad_json",
    "wrong_schema",
    "no_yes_or_no",
    "rejected",
    "picture",
)


@dataclass(frozen=True)
class Reply:
    """What the model said, and the tokens it cost."""

    content: str
    input_tokens: int = 0
    output_tokens: int = 0

    def failed(self, kind: str, message: str, again: bool = False) -> Failure:
        """Why it cannot be used, with its tokens."""
        spent = (self.input_tokens, self.output_tokens)
        return Failure(kind, message, again, None, None, *spent)


@dataclass(frozen=True)
class Failure:
    """Why there is no verdict. again: another try may help; after: seconds the server asks for;
    fatal: no further question can succeed, and what mends it."""

    kind: str
    message: str
    again: bool = False
    after: float | None = None
    fatal: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class Count:
    """Mentions in one text. effective: spans that are in it; mismatch: the judge contradicts the
    text or itself."""

    spans: tuple[str, ...]
    count: int
    effective: int
    mismatch: bool

    def record(self) -> dict[str, Any]:
        values = (list(self.spans), self.count, self.effective, self.mismatch)
        names = ("spans", "count", "count_effective", "mismatch")
        return dict(zip(names, values, strict=True))


@dataclass(frozen=True)
class Match:
    """Whether a text matches its picture."""

    yes: bool

    def record(self) -> dict[str, Any]:
        return {"yes": self.yes}


def reply_of(body: Any) -> Reply | Failure:
    """The reply in the body of a chat completion, which may be anything."""
    cost = _tokens(body)
    try:
        choice = body["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish = choice.get("finish_reason")
    except (AttributeError, IndexError, KeyError, TypeError):
        return Failure("malformed", f"no chat completion: {shown(body)}", again=True)
    if refusal:
        return cost.failed("refusal", shown(refusal))
    if finish == "content_filter":
        return cost.failed("content_filter", "the server's filter ended the reply")
    if finish == "length":
        return cost.failed("truncated", f"cut off: {shown(content)}")
    if not isinstance(content, str):
        return cost.failed("malformed", "the reply has no content", again=True)
    return replace(cost, content=content)


def _tokens(body: Any) -> Reply:
    """What the usage in a body says, as a reply without content."""
    usage = body.get("usage") if isinstance(body, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    spent = [_natural(usage.get(name)) or 0 for name in ("prompt_tokens", "completion_tokens")]
    return Reply("", *spent)


def count_of(reply: Reply, text: str) -> Count | Failure:
    """The mentions that a reply lists, checked against the text."""
    try:
        found = json.loads(reply.content)
    except (ValueError, RecursionError):
        return reply.failed("bad_json", f"no JSON: {shown(reply.content)}", again=True)
    spans, count = (found.get(k) for k in ("spans", "count")) if _shaped(found) else (None, None)
    natural = _natural(count)
    if natural is None or not _words(spans):
        return reply.failed("wrong_schema", f"not the schema: {shown(found)}", again=True)
    effective = verified(spans, text)
    mismatch = natural != len(spans) or effective != len(spans)
    return Count(tuple(spans), natural, effective, mismatch)


def _shaped(found: Any) -> bool:
    return isinstance(found, dict) and set(found) == {"spans", "count"}


def _words(spans: Any) -> TypeGuard[list[str]]:
    return isinstance(spans, list) and all(isinstance(span, str) for span in spans)


def _natural(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 2**31 else None


def verified(spans: Sequence[str], text: str) -> int:
    """How many spans are in the text, verbatim and as whole words.

    Each place in the text serves one span, the longest first: `he` is not found inside `she`, and a
    word listed twice must be there twice.
    """
    taken = [False] * len(text)
    found = 0
    for span in sorted(spans, key=len, reverse=True):
        for place in _places(span, text):
            if not any(taken[place : place + len(span)]):
                taken[place : place + len(span)] = [True] * len(span)
                found += 1
                break
    return found


def _places(span: str, text: str) -> list[int]:
    if not span.strip():
        return []
    start = r"(?<!\w)" if re.match(r"\w", span[0]) else ""
    end = r"(?!\w)" if re.match(r"\w", span[-1]) else ""
    return [match.start() for match in re.finditer(start + re.escape(span) + end, text)]


def match_of(reply: Reply) -> Match | Failure:
    """Yes or no: the first run of letters of the reply."""
    first = re.search(r"[^\W\d_]+", reply.content)
    word = first.group().lower() if first else ""
    if word not in ("yes", "no"):
        said = f"neither yes nor no: {shown(reply.content)}"
        return reply.failed("no_yes_or_no", said, again=True)
    return Match(word == "yes")


def shown(value: Any) -> str:
    """The beginning of anything, on one line."""
    return " ".join((value if isinstance(value, str) else repr(value)).split())[:SHOWN]
