"""out/logs as facts: who worked, how fast, what went wrong. It decides nothing: the listing does.

Older logs lack keys and a killed driver's may end within a line: what is not there is left out.
"""

from __future__ import annotations

import json
import socket
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from lmmsteer.errors import LmmsteerError
from lmmsteer.store import Store

VERBS = ("generate", "resume")
ERRORS = ("failure", "death", "quarantine", "breaker", "start_failed")
KEPT = 50  # Errors of one log that are remembered.
GAPS = 200  # Pauses between events by which a driver's silence is judged.
STARTING = 1800.0  # Seconds without an event before the first shard: a model may be loading.
SHORTEST = 60.0  # No driver is called silent earlier.

State = Literal["ended", "running", "silent", "gone"]


@dataclass(frozen=True, slots=True)
class Done:
    """A shard that a worker has answered and committed."""

    cell: str
    rows: int
    seconds: float
    worker: int
    model: str
    device: str


@dataclass
class Log:
    """What one driver's log says. first, last: times of its events, in seconds of the epoch."""

    path: str
    first: float | None = None
    last: float | None = None
    start: Mapping[str, Any] = field(default_factory=dict)
    end: Mapping[str, Any] | None = None
    workers: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    done: list[Done] = field(default_factory=list)
    errors: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=KEPT))
    refused: list[dict[str, Any]] = field(default_factory=list)
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=GAPS))

    @property
    def verb(self) -> str:
        return self.path.rpartition("/")[2].partition("-")[0]

    @property
    def patience(self) -> float:
        """Seconds of silence after which a driver is not taken to be running.

        Three times the longest of the last pauses between its events, at least a minute; half an
        hour while no shard is done.
        """
        return max(SHORTEST, 3 * max(self.gaps)) if self.gaps else STARTING

    def state(self, now: float) -> State:
        """ended: it said so. gone: its process is no more on this machine. Else by its silence.

        Drivers send no heartbeat, so `running` and `silent` are told by their last event alone,
        but for a driver whose process is seen on this machine: that one is running.
        """
        if self.end is not None:
            return "ended"
        quiet = now - (self.last or now)
        here = process_here(self.start.get("host"), self.start.get("pid"))
        if here is False and quiet > SHORTEST / 2:
            return "gone"
        return "running" if here or quiet <= self.patience else "silent"

    def take(self, event: dict[str, Any]) -> None:
        """Add one line of the log."""
        self._clock(event)
        kind = event.get("event")
        if kind == "done":
            self._take_done(event)
        elif kind == "worker":
            self.workers[event.get("worker", 0)] = event
        elif kind == "start":
            self.start = event
        elif kind == "end":
            self.end = event
        elif kind == "refused":
            self.refused.append(event)
        elif kind in ERRORS:
            self.errors.append({**event, "log": self.path})
        if kind in ("death", "start_failed"):
            self.workers.pop(event.get("worker", 0), None)

    def _clock(self, event: Mapping[str, Any]) -> None:
        at = _seconds(event.get("time"))
        if at is None:
            return
        if self.done and self.last is not None:
            self.gaps.append(max(0.0, at - self.last))
        self.first = at if self.first is None else self.first
        self.last = at

    def _take_done(self, event: Mapping[str, Any]) -> None:
        """A shard counts where its rows were answered here and its part is this driver's."""
        rows, seconds = event.get("rows") or 0, event.get("seconds") or 0.0
        if rows <= 0 or seconds <= 0 or not event.get("created", True):
            return
        cell, worker = event.get("cell", ""), event.get("worker", 0)
        model = event.get("model") or cell.partition(" ")[0]
        device = event.get("device") or self.workers.get(worker, {}).get("device") or ""
        names = (sys.intern(cell), rows, seconds, worker, sys.intern(model), sys.intern(device))
        self.done.append(Done(*names))


class Logs:
    """The logs of an output folder. Read again, it reads what was added since."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._logs: dict[str, Log] = {}
        self._offsets: dict[str, int] = {}

    def read(self) -> list[Log]:
        """Every log of `generate` and `resume` that holds an event, the newest last."""
        for path in self.store.list("logs"):
            if path.endswith(".jsonl") and path.rpartition("/")[2].startswith(VERBS):
                self._extend(self._logs.setdefault(path, Log(path)))
        begun = [log for log in self._logs.values() if log.first is not None]
        return sorted(begun, key=lambda log: (log.first or 0.0, log.path))

    def _extend(self, log: Log) -> None:
        offset = self._offsets.get(log.path, 0)
        lines, _, _ = self._tail(log.path, offset).rpartition(b"\n")
        if not lines:  # The last line of all may still be under way.
            return
        self._offsets[log.path] = offset + len(lines) + 1
        for line in lines.split(b"\n"):
            event = _parse(line)
            if event is not None:
                log.take(event)

    def _tail(self, path: str, offset: int) -> bytes:
        local = self.store.local(path)
        try:
            if local is None:
                return self.store.read_bytes(path)[offset:]
            with local.open("rb") as file:
                file.seek(offset)
                return file.read()
        except OSError as error:
            raise LmmsteerError(
                f"{self.store.root}/{path} cannot be read: {error.strerror or error}.",
                "Check the folder's rights.",
            ) from error


def process_here(host: Any, pid: Any) -> bool | None:
    """Whether a driver's process is on this machine; None where that cannot be told from here."""
    if host != socket.gethostname() or not isinstance(pid, int) or not Path("/proc/self").exists():
        return None
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # The latter: it ended as the file was read.
        return False
    except OSError:
        return None
    if not command:  # It has ended and waits to be reaped.
        return False
    return True if b"lmmsteer" in command or b"-m\0jobs" in command else None


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:  # Torn: its driver was killed while it wrote.
        return None
    return event if isinstance(event, dict) else None


def _seconds(stamp: Any) -> float | None:
    try:
        return datetime.fromisoformat(f"{str(stamp).rstrip('Z')}+00:00").timestamp()
    except ValueError:
        return None
