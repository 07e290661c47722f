"""The server of the judge, through OpenAI's own SDK. The key is read here and leaves nowhere else.

Every failure comes back as a `Failure` with its kind; what the server says is stripped of the key
before anything else sees it.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from analysis.judge.answer import Failure, Reply, reply_of, shown
from analysis.judge.settings import JudgeKeys
from lmmsteer.errors import LmmsteerError

NO_KEY = "none"  # what the SDK sends to a server that wants no key
AGAIN = (408, 409, 425, 429)


class Client:
    """One judge behind one address; `ask` never raises for what a server or network does."""

    def __init__(self, keys: JudgeKeys) -> None:
        self.openai = _sdk()
        self.timeout = keys.timeout
        self.max_wait = keys.max_wait
        self.key_env = keys.key_env
        self._key = _key(keys.key_env)
        self._sdk = self.openai.AsyncOpenAI(
            api_key=self._key, base_url=keys.base_url, max_retries=0, timeout=keys.timeout
        )
        self.address = str(self._sdk.base_url)

    async def ask(self, body: Mapping[str, Any]) -> Reply | Failure:
        """One request, without a retry. The timeout is of the whole reply, slow bytes included."""
        rest = {k: v for k, v in body.items() if k not in ("model", "messages")}
        create = self._sdk.chat.completions.with_raw_response.create
        asked = create(model=body["model"], messages=body["messages"], extra_body=rest)
        try:
            raw = await asyncio.wait_for(asked, self.timeout)
            return reply_of(self.clean(json.loads(raw.text)))
        except (asyncio.TimeoutError, self.openai.APITimeoutError):
            return Failure("timeout", f"no reply in {self.timeout:g} s", again=True)
        except self.openai.APIStatusError as error:
            return self._refused(error)
        except self.openai.APIConnectionError as error:
            reason = self.clean(str(error.__cause__ or error))
            return Failure("connection", shown(reason), again=True)
        except (ValueError, RecursionError, self.openai.OpenAIError) as error:
            return Failure("malformed", shown(self.clean(str(error))), again=True)

    async def close(self) -> None:
        await self._sdk.close()

    def clean(self, value: Any) -> Any:
        """Anything a server said, without the key."""
        if self._key == NO_KEY:
            return value
        if isinstance(value, str):
            return value.replace(self._key, "[key]")
        if isinstance(value, list):
            return [self.clean(item) for item in value]
        if isinstance(value, dict):
            return {self.clean(key): self.clean(item) for key, item in value.items()}
        return value

    def _refused(self, error: Any) -> Failure:
        status, message = error.status_code, shown(self.clean(error.message))
        if status in (401, 403):
            return Failure("auth", message, fatal=self._auth())
        if status == 404:
            mend = "Check analysis.judge.model and analysis.judge.base_url."
            return Failure("not_found", message, fatal=mend)
        if error.code == "insufficient_quota":
            return Failure("quota", message, fatal="Add credit, then run the same command again.")
        after = retry_after(error.response.headers)
        if status not in AGAIN and status < 500:
            return Failure("rejected", message)
        kind = "rate_limit" if status == 429 else "server"
        if after is not None and after > self.max_wait:
            mend = f"Run the same command again then, or: analysis.judge.max_wait={after:.0f}"
            return Failure(kind, f"the server asks to wait {after:.0f} s", fatal=mend)
        return Failure(kind, f"HTTP {status}: {message}", again=True, after=after)

    def _auth(self) -> str:
        if self.key_env is None:
            return "Name the variable that holds the key: analysis.judge.key_env=NAME"
        return f"Check the key in the environment variable {self.key_env}."


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from Retry-After (seconds or a date) or retry-after-ms."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if (number := _number(value)) is not None:
            return max(0.0, number)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if number < float("inf") else None


def _key(name: str | None) -> str:
    if name is None:
        return NO_KEY
    key = os.environ.get(name, "").strip()
    if not key:
        raise LmmsteerError(
            f"The environment variable {name}, which holds the judge's key, is not set.",
            f"Set it: export {name}=... (for a server that wants no key:"
            " analysis.judge.key_env=null)",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise LmmsteerError(
            f"The environment variable {name} holds no key: blanks or letters beyond ASCII.",
            f"Set it again: export {name}=...",
        )
    return key


def _sdk() -> Any:
    try:
        import openai
    except ImportError as error:
        raise LmmsteerError(
            "The judge needs the package openai, which is not installed.",
            "Install it: pip install 'lmmsteer[judge]'",
        ) from error
    return openai
