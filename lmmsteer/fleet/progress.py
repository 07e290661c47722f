"""Rows done, rows a second, time left, failures: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PLAIN_EVERY = 10.0


class Display:
    """A context: `add` rows as they are done; what it shows is told, never decided here."""

    def __init__(self, rows: int, what: str, enabled: bool = True, unit: str = "rows") -> None:
        self.rows, self.what, self.enabled, self.unit = rows, what, enabled, unit
        self.done = self.failed = 0
        self.start = self.last = time.monotonic()
        self.bar: Progress | None = None

    def __enter__(self) -> Display:
        if self.enabled and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            tail = (TextColumn("{task.fields[note]}"), TimeElapsedColumn())
            self.bar = Progress(*columns, *tail, console=Console(stderr=True))
            self.task = self.bar.add_task(self.what, total=self.rows, note="starting workers")
            self.bar.start()
        elif self.enabled:
            print(
                f"{self.what}: {self.rows} {self.unit}, starting workers",
                file=sys.stderr,
                flush=True,
            )
        return self

    def add(self, rows: int, failed: int) -> None:
        self.done += rows
        self.failed += failed
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, note=self._note())
        elif self.enabled and time.monotonic() - self.last >= PLAIN_EVERY:
            self.last = time.monotonic()
            note = self._note()
            print(
                f"{self.what}: {self.done} of {self.rows} {self.unit}, {note}",
                file=sys.stderr,
                flush=True,
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _note(self) -> str:
        rate = self.done / max(time.monotonic() - self.start, 1e-9)
        left = (self.rows - self.done) / rate if rate > 0 else 0.0
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{rate:.1f} {self.unit}/s, {_clock(left)} left{failed}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
