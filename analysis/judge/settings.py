"""The keys of `analysis.judge`, checked before anything is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from analysis.settings import Analysis
from lmmsteer.errors import LmmsteerError

LOCAL = "local"  # base_url of a judge that is no server: model is its folder
STEPS = ("ask", "plan", "export", "import", "score")


@dataclass
class JudgeKeys:
    """What is asked, whom, how fast, and at what price.

    model: the name the server knows it by, or a local judge's folder. base_url: its address (null:
    OpenAI's; local: no server, the model of that folder on this machine's own engine). key_env: the
    environment variable that holds the key (null: the server wants none).
    step: ask (what has no verdict yet, then score), plan (rows, tokens, price; no call), export
    (batch requests as JSON lines), import (their results, then score), score (no call).
    results: files of batch results that import reads.
    prompts: YAML file instead of the shipped prompt. share: of the rows, chosen by row id, the same
    in every cell. temperature, max_tokens: null leaves them out; extra: more keys of the body.
    concurrency: requests in flight. timeout: seconds of one request. retries: further tries of one
    request. max_wait: longest wait, in seconds, that a server may ask for.
    retry: ask again what was answered and could not be used (refusals, broken JSON, ...).
    max_error_share: rows without a verdict beyond which the run fails.
    price_input, price_output: money for a million tokens (null: unknown). pixels: longer side of
    the pictures that are sent.
    """

    model: str | None = None
    base_url: str | None = None
    key_env: str | None = "OPENAI_API_KEY"
    step: str = "ask"
    results: list[str] = field(default_factory=list)
    prompts: str | None = None
    share: float = 1.0
    temperature: float | None = 0.0
    max_tokens: int | None = 1024
    extra: dict[str, Any] = field(default_factory=dict)
    concurrency: int = 8
    timeout: float = 60.0
    retries: int = 6
    max_wait: float = 120.0
    retry: bool = False
    max_error_share: float = 0.01
    price_input: float | None = None
    price_output: float | None = None
    pixels: int = 512


@dataclass
class Judging(Analysis):
    """The keys of every analysis, and the judge's own below `judge`."""

    judge: JudgeKeys = field(default_factory=JudgeKeys)


def check(keys: JudgeKeys) -> None:
    """Refuse what cannot work. Raises: LmmsteerError, which never repeats what may be a key."""
    if not keys.model:
        raise LmmsteerError(
            "analysis.judge.model has no value.",
            "Name the judge as its server does: analysis.judge.model=NAME",
        )
    _check_place(keys)
    if keys.step not in STEPS:
        raise LmmsteerError(
            f"analysis.judge.step={keys.step} is not known.", f"Choose one of {', '.join(STEPS)}."
        )
    least: dict[str, float] = {"concurrency": 1, "retries": 0, "max_wait": 0, "pixels": 16}
    low = [name for name, bound in least.items() if getattr(keys, name) < bound]
    if low:
        raise LmmsteerError(
            f"analysis.judge.{low[0]}={getattr(keys, low[0])} is too small.",
            f"Give at least {least[low[0]]:g}.",
        )
    if not (0 < keys.share <= 1 and 0 <= keys.max_error_share <= 1 and keys.timeout > 0):
        raise LmmsteerError(
            "analysis.judge.share is above 0 and at most 1, max_error_share from 0 to 1, and"
            " timeout above 0.",
            "See the keys with: lmmsteer analyze analysis=judge --cfg job",
        )
    if {"model", "messages", "response_format", "stream"} & set(keys.extra):
        raise LmmsteerError(
            "analysis.judge.extra cannot set model, messages, response_format or stream.",
            "Leave them out: the judge sets them itself.",
        )


def _check_place(keys: JudgeKeys) -> None:
    if keys.key_env is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]*", keys.key_env):
        raise LmmsteerError(
            "analysis.judge.key_env is not the name of an environment variable.",
            "Put the key in a variable, and its name here: analysis.judge.key_env=OPENAI_API_KEY",
        )
    if keys.base_url in (None, LOCAL):
        return
    address = urlsplit(keys.base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise LmmsteerError(
            "analysis.judge.base_url is neither an http:// or https:// address nor local.",
            "For example: analysis.judge.base_url=http://localhost:8000/v1",
        )
    if address.username or address.password or address.query:
        raise LmmsteerError(
            "analysis.judge.base_url holds a user name, a password or a query: no place for them.",
            "Put the key in an environment variable: analysis.judge.key_env=NAME",
        )
