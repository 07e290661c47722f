"""The judge's prompt: a system turn, two worked examples, and the question about one text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from analysis.judge.answer import SPANS_SCHEMA, verified
from lmmsteer.errors import LmmsteerError

SHIPPED = Path(__file__).with_name("prompts.yaml")
Message: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Prompts:
    """A prompt file; digest: the sha256 of its bytes."""

    system: str
    question: str
    picture: str
    attributes: Mapping[str, str]
    shots: Sequence[Mapping[str, Any]]
    digest: str

    def counting(self, attribute: str, text: str) -> list[Message]:
        """The turns that ask for the mentions of an attribute in a text."""
        turns = [{"role": "system", "content": self.system}]
        for shot in self.shots:
            spans = shot["spans"][attribute]
            reply = json.dumps({"spans": spans, "count": len(spans)}, ensure_ascii=False)
            turns.append({"role": "user", "content": self._asked(attribute, shot["text"])})
            turns.append({"role": "assistant", "content": reply})
        return [*turns, {"role": "user", "content": self._asked(attribute, text)}]

    def matching(self, text: str, picture: str) -> list[Message]:
        """The turn that asks whether a text describes a picture (a data URI)."""
        asked = self.picture.replace("{text}", text).strip()
        shown = {"type": "image_url", "image_url": {"url": picture}}
        return [{"role": "user", "content": [shown, {"type": "text", "text": asked}]}]

    def _asked(self, attribute: str, text: str) -> str:
        filled = self.question.replace("{definition}", self.attributes[attribute])
        filled = filled.replace("{attribute}", attribute.replace("_", " "))
        return filled.replace("{text}", text).strip()

    def require(self, attributes: Sequence[str]) -> None:
        """Raises: LmmsteerError for an attribute without a definition and worked examples."""
        for name in attributes:
            if name not in self.attributes or any(name not in s["spans"] for s in self.shots):
                raise LmmsteerError(
                    f"The judge's prompt says nothing of the attribute {name}.",
                    f"Copy {SHIPPED}, add {name} to attributes and to the spans of both shots, and"
                    " give it as analysis.judge.prompts=FILE",
                )


def read(path: str | None) -> Prompts:
    """The shipped prompt, or a file like it. Raises: LmmsteerError that names what is wrong."""
    file = SHIPPED if path is None else Path(path)
    try:
        data = file.read_bytes()
        record = yaml.safe_load(data)
        return _prompts(record, hashlib.sha256(data).hexdigest())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise LmmsteerError(
            f"analysis.judge.prompts={file} cannot be used: {reason}.", f"Write it like {SHIPPED}."
        ) from error


def _prompts(record: Any, digest: str) -> Prompts:
    if not isinstance(record, dict):
        raise ValueError("it is no mapping")
    kinds = {"system": str, "question": str, "picture": str, "attributes": dict, "shots": list}
    for name, kind in kinds.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"{name} is missing or of the wrong kind")
    for name in ("question", "picture"):
        if "{text}" not in record[name]:
            raise ValueError(f"{name} has no place for {{text}}")
    if not all(isinstance(text, str) for text in record["attributes"].values()):
        raise ValueError("attributes gives each name what counts as a mention of it")
    for shot in record["shots"]:
        _check(shot)
    return Prompts(**{name: record[name] for name in kinds}, digest=digest)


def _check(shot: Any) -> None:
    """A worked example whose own spans are not in its text would teach the judge to invent."""
    if not isinstance(shot, dict) or not isinstance(shot.get("text"), str):
        raise ValueError("a shot has no text")
    if not isinstance(shot.get("spans"), dict):
        raise ValueError("a shot has no spans")
    for attribute, spans in shot["spans"].items():
        if not isinstance(spans, list) or not all(isinstance(span, str) for span in spans):
            raise ValueError(f"the spans of {attribute} are no list of words")
        if verified(spans, shot["text"]) < len(spans):
            raise ValueError(f"a span of {attribute} is not in the text of its shot")


def counting_format() -> dict[str, Any]:
    """The `response_format` of a count: structured outputs by JSON schema."""
    named = {"name": "mentions", "strict": True, "schema": SPANS_SCHEMA}
    return {"type": "json_schema", "json_schema": named}
