"""Asking a server again: after which answers, how often, and how long between."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# What the SDKs of S3 and Google Cloud Storage call a server that is busy, broken or out of reach.
PASSING = re.compile(
    r"SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|NETWORK_CONNECTION"
    r"|NO_SUCH_KEY"  # said of an object that was there a moment ago
    r"|HTTP status (?:408|409|429|5\d\d)\b"
    r"|\b(?:UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|ABORTED|INTERNAL)\b"
)
NO_TOKEN = "Could not create a OAuth2 access token"
CREDENTIALS = re.compile(
    r"(?<=//)[^/@\s]+:[^/@\s]*(?=@)"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|(?<=[?&; ])(?P<name>[\w-]*(?:key|secret|token|password|credential|signature)[\w-]*)"
    r"=[^&;\s]+",
    re.IGNORECASE,
)
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@dataclass(frozen=True)
class Retries:
    """Exponential backoff with full jitter: before try n + 1, wait r min(most, first 2^n) seconds.

    r: uniform in [0, 1). With the defaults eight tries take 16 seconds on average, 32 at most.
    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    tries: int = 8
    first: float = 0.25
    most: float = 20.0
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random

    def run(self, ask: Callable[[], T]) -> T:
        """The answer; asked again after faults that pass, and only after those."""
        for number in range(self.tries - 1):
            try:
                return ask()
            except OSError as error:
                if not passes(error):
                    raise
            self.sleep(self.random() * min(self.most, self.first * 2**number))
        return ask()


def passes(error: Exception) -> bool:
    """Whether the same request may be answered well a little later."""
    if isinstance(error, (FileNotFoundError, PermissionError)) or NO_TOKEN in str(error):
        return False
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(PASSING.search(str(error)))


def scrubbed(text: str) -> str:
    """A text of an SDK on one line, without anything that opens a door."""
    for name in SECRETS:
        secret = os.environ.get(name, "")
        if len(secret) >= 8:
            text = text.replace(secret, "***")
    text = CREDENTIALS.sub(lambda found: f"{found['name']}=***" if found["name"] else "***", text)
    return " ".join(text.split())
