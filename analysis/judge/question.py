"""One question to the judge, and the setup that all questions of a kind share.

A question is named by its digest (what is asked about, and of which text and picture), so that
equal texts are asked once, whichever method or row they come from. The setup (model, prompt,
schema, sampling) is part of every question's custom id and of the folder its verdict lies in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from analysis.judge.answer import Count, Failure, Match, Reply
from analysis.judge.prompts import Message, Prompts
from analysis.judge.settings import JudgeKeys

Verdict: TypeAlias = Count | Match
URL = "/v1/chat/completions"


@dataclass(frozen=True)
class Question:
    """What is asked of one text. messages: made when it is asked (a picture is heavy), a Failure
    where it cannot be; read: the verdict in a reply."""

    key: str
    about: str
    row_id: str
    messages: Callable[[], list[Message] | Failure]
    read: Callable[[Reply], Verdict | Failure]


@dataclass(frozen=True)
class Setup:
    """What every question of a kind is asked with: the body without its messages."""

    kind: str
    body: Mapping[str, Any]
    prompts: str  # the digest of the prompt file
    pixels: int | None = None

    @property
    def record(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "body": dict(self.body),
            "prompts_sha256": self.prompts,
            "pixels": self.pixels,
        }

    @property
    def digest(self) -> str:
        text = json.dumps(self.record, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        return f"judgements/{self.kind}/{self.digest}"

    def asked(self, messages: Sequence[Message]) -> dict[str, Any]:
        """The body of a request."""
        return {**self.body, "messages": list(messages)}

    def custom_id(self, key: str) -> str:
        return f"{self.digest}-{key}"


def setup(
    kind: str,
    keys: JudgeKeys,
    prompts: Prompts,
    response_format: Mapping[str, Any] | None = None,
    pixels: int | None = None,
) -> Setup:
    """The setup of a kind of question from the judge's keys."""
    body: dict[str, Any] = {"model": keys.model}
    if response_format is not None:
        body["response_format"] = dict(response_format)
    if keys.temperature is not None:
        body["temperature"] = keys.temperature
    if keys.max_tokens is not None:
        body["max_tokens"] = keys.max_tokens
    return Setup(kind, {**body, **keys.extra}, prompts.digest, pixels)


def digest(*parts: str) -> str:
    """The name of a question: a hash of its parts, which cannot run into one another."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(f"{len(data)}:".encode() + data)
    return hashed.hexdigest()[:32]


def chosen(row_id: str, share: float) -> bool:
    """Whether a row is in the sample: the same rows in every cell."""
    number = int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "big")
    return number < share * 2**64
