"""What fits say of their way, while they are on it: a log for each, and who listens to them.

out/logs/fit-MODEL.METHOD.ATTRIBUTE-ID.jsonl, one line for each thing said. So it is heard wherever
the worker is, with nothing between it and the listener but the output folder.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType

from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet.task import FitTask
from lmmsteer.store import Store

LOOK_SECONDS = 1.0


def log_name(task: FitTask) -> str:
    """The beginning of the name of a fit's logs."""
    cell = [part.partition("=")[2] for part in task.path.split("/")[1:-1]]
    return f"fit-{'.'.join(cell)}"


class Teller:
    """A fit's `say`: remembers the lines and writes them to a log of its own."""

    def __init__(self, store: Store, task: FitTask) -> None:
        self.store = store
        self.path = f"logs/{log_name(task)}-{uuid.uuid4().hex[:12]}.jsonl"
        self.said: list[str] = []

    def __call__(self, line: str) -> None:
        self.said.append(line)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        event = {"time": stamp, "event": "said", "line": line}
        self.store.append(self.path, json.dumps(event, ensure_ascii=False))
        self.store.flush()


class Listener:
    """Shows what fits say, for the length of a `with` block; nothing that was said before it.

    labels: how each fit is called, by its `log_name`. A line is shown once for each fit, though a
    worker that takes over for a dead one may say it again.
    """

    def __init__(
        self, store: Store, labels: Mapping[str, str], show: Callable[[str], None]
    ) -> None:
        self.store, self.labels, self.show = store, labels, show
        self._before = set(store.list("logs"))
        self._shown: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="listener", daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def take(self, label: str, lines: tuple[str, ...]) -> None:
        """Show those of a fit's lines that have not been shown: a report has them all."""
        with self._lock:
            for line in lines:
                if (label, line) not in self._shown:
                    self._shown.add((label, line))
                    self.show(f"{label}: {line}")

    def look(self) -> None:
        """Show what has been said since."""
        for path in self.store.list("logs"):
            label = self.labels.get(path.rpartition("/")[2].rpartition("-")[0])
            if label is not None and path not in self._before:
                self.take(label, _lines(self.store.read_bytes(path)))

    def _listen(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            try:
                self.look()
            except (OSError, LmmsteerError) as error:
                # The reports still bring every line; the fits themselves are not concerned.
                what = error.what if isinstance(error, LmmsteerError) else str(error)
                self.take("fit", (f"what fits say cannot be read for now: {what}",))


def _lines(log: bytes) -> tuple[str, ...]:
    """What was said, by the whole lines of a log; the last one may still be under way."""
    whole, _, _ = log.rpartition(b"\n")
    return tuple(json.loads(line)["line"] for line in whole.splitlines())
