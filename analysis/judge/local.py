"""A judge on this machine: an LMM that is asked through the project's own engine, not a server.

What is asked together is answered together, `concurrency` questions at a time. Answers are
constrained to the form of the request: JSON of its schema, else Yes or No.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from analysis.judge.answer import Failure, Reply
from analysis.judge.prompts import Message
from analysis.judge.settings import JudgeKeys
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Response

CHOICES = ("Yes", "No")
TOKENS = 1024  # Of an answer, where max_tokens is null.


@dataclass(frozen=True)
class Asked:
    """A question as a model without turns is shown it: one text and, perhaps, one picture."""

    row_id: str
    prompt: str
    picture: bytes | None


class Model(Protocol):
    """A model that answers in a form. name: says which one, wherever it lies."""

    name: str

    def answer(
        self,
        asked: Sequence[Asked],
        schema: Mapping[str, Any] | None,
        choices: Sequence[str],
        temperature: float,
        tokens: int,
    ) -> list[tuple[Response, int]]:
        """A response to each question and the tokens of its prompt; JSON of the schema, or one of
        the choices where there is none."""
        ...


class LocalClient:
    """The client of a local judge. Raises from `ask`: LmmsteerError for what no question survives
    (no memory, a form that the tokenizer cannot write)."""

    def __init__(self, model: Model, keys: JudgeKeys) -> None:
        self.model, self.address = model, model.name
        self.temperature = keys.temperature or 0.0
        self.tokens = TOKENS if keys.max_tokens is None else keys.max_tokens
        self._waiting: list[tuple[Mapping[str, Any], asyncio.Future[Reply | Failure]]] = []
        self._working: asyncio.Task[None] | None = None

    async def ask(self, body: Mapping[str, Any]) -> Reply | Failure:
        """The answer to one question, made together with those that wait beside it."""
        future: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, future))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await future

    async def close(self) -> None:
        if self._working is not None:
            self._working.cancel()

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # Whoever asks at this moment comes along.
            batch, self._waiting = self._waiting, []
            try:
                found = await asyncio.to_thread(self._answer, [body for body, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), one in zip(batch, found, strict=True):
                if not future.done():
                    future.set_result(one)

    def _answer(self, bodies: Sequence[Mapping[str, Any]]) -> list[Reply | Failure]:
        """Of questions of one kind."""
        schema = (bodies[0].get("response_format") or {}).get("json_schema", {}).get("schema")
        asked = [_asked(body["messages"]) for body in bodies]
        answers = self.model.answer(asked, schema, CHOICES, self.temperature, self.tokens)
        return [_reply(response, tokens) for response, tokens in answers]


def _asked(messages: Sequence[Message]) -> Asked:
    """Turns as one text: instructions, worked examples with their answers, the question."""
    texts, picture = [], None
    for message in messages:
        content = message["content"]
        parts: list[Any] = content if isinstance(content, list) else [_text(content)]
        for part in parts:
            if part["type"] == "image_url":
                picture = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            else:
                answered = message["role"] == "assistant"
                texts.append(f"Answer: {part['text']}" if answered else part["text"].strip())
    prompt = "\n\n".join(texts)
    name = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:32]
    return Asked(name, prompt, picture)


def _text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def _reply(response: Response, tokens: int) -> Reply | Failure:
    reply = Reply(response.text or "", tokens, response.new_tokens or 0)
    if response.error_kind is not None:
        return reply.failed("rejected", f"{response.error_kind}: {response.error}")
    if response.finish_reason == "length":
        return reply.failed("truncated", "the answer did not end in time")
    return reply


def check(keys: JudgeKeys) -> None:
    """Refuse keys that are of servers alone."""
    if keys.extra:
        raise LmmsteerError(
            "analysis.judge.extra is for servers: a local judge is sent no request.",
            "Leave it out.",
        )
    if keys.step in ("export", "import"):
        raise LmmsteerError(
            f"analysis.judge.step={keys.step} is for servers: a local judge has no batch route.",
            "Ask it: analysis.judge.step=ask",
        )


Open = Callable[[str], Model]
