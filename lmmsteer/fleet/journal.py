"""out/logs/VERB-TIME-ID.jsonl: everything about time, workers and attempts, which no part may hold.

One line for each event. Nothing reads it to decide what is done: the listing alone says that.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from datetime import datetime, timezone
from typing import Any

from lmmsteer.store import Store


class Journal:
    """The log of one driver. `driver` is its random name; clocks are for people only."""

    def __init__(self, store: Store, verb: str) -> None:
        self.store = store
        self.driver = uuid.uuid4().hex[:12]
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self.path = f"logs/{verb}-{stamp}-{self.driver}.jsonl"

    def write(self, event: str, **facts: Any) -> None:
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **facts}
        self.store.append(self.path, json.dumps(line, ensure_ascii=False))

    def close(self) -> None:
        """Everything written is in the store."""
        self.store.flush()


ALIVE_SECONDS = 600


def place_among_drivers(store: Store) -> float:
    """Where a driver begins, as a share of the shards: at the start, or, if another seems to be at
    work on the folder, somewhere else, so that they do not answer the same shards side by side.
    """
    return random.random() if any(_at_work(store, name) for name in store.list("logs")) else 0.0


def _at_work(store: Store, name: str) -> bool:
    """Whether a log has no end and was written to lately. A wrong guess costs nothing but order."""
    if not name.rpartition("/")[2].startswith(("generate-", "resume-")):
        return False
    try:
        last = json.loads(store.read_bytes(name).splitlines()[-1])
        written = datetime.strptime(last["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except (OSError, ValueError, LookupError, TypeError):
        return False
    age = (datetime.now(timezone.utc) - written).total_seconds()
    return last.get("event") != "end" and abs(age) < ALIVE_SECONDS
