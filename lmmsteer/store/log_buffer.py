"""Log lines on their way to a store in which a file can only be replaced whole.

A thread sends them, a few seconds late and seldom enough: so a long log is not sent a thousand
times, and a server that is slow to answer does not hold up who writes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from lmmsteer.errors import LmmsteerError

EVERY = 5.0
BYTES_PER_SECOND = 256 * 1024


@dataclass(eq=False)
class _Log:
    text: bytearray
    sent: int = 0
    due: float = 0.0  # by a monotonic clock


class LogBuffer:
    """The logs of one writer. `read` gives what a log holds already, `send` replaces it."""

    def __init__(
        self,
        read: Callable[[str], bytes],
        send: Callable[[str, bytes], None],
        every: float = EVERY,
    ) -> None:
        self.read = read
        self.send = send
        self.every = every
        self._logs: dict[str, _Log] = {}
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def append(self, path: str, line: str) -> None:
        """A new line goes at once, or `every` seconds after the last; a long log waits longer.

        On average at most 256 KiB a second are sent for a log, however long it has grown.
        """
        before = b"" if path in self._logs else self.read(path)
        with self._changed:
            self._logs.setdefault(path, _Log(bytearray(before), len(before))).text += (
                line.encode() + b"\n"
            )
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._work, name="logs", daemon=True)
                self._thread.start()
            self._changed.notify()

    def flush(self) -> None:
        """Send every line now. Raises what the store raises; the lines are kept for another try."""
        for path in list(self._logs):
            self._send(path)

    def close(self) -> None:
        """Send what is left, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def _work(self) -> None:
        while (path := self._next()) is not None:
            try:
                self._send(path)
            except LmmsteerError:
                # The lines are kept and sent again; `flush` raises if it cannot send them either.
                self._logs[path].due = time.monotonic() + self.every

    def _next(self) -> str | None:
        """Wait for a log whose new lines are due; None once closed."""
        with self._changed:
            while not self._closed:
                waiting = [(log.due, path) for path, log in self._logs.items() if self._new(log)]
                due, path = min(waiting, default=(None, ""))
                if due is not None and due <= time.monotonic():
                    return path
                self._changed.wait(None if due is None else due - time.monotonic())
        return None

    def _send(self, path: str) -> None:
        log = self._logs[path]
        with self._sending:
            with self._changed:
                text = bytes(log.text) if self._new(log) else b""
            if text:
                self.send(path, text)
                log.sent = len(text)
                log.due = time.monotonic() + max(self.every, len(text) / BYTES_PER_SECOND)

    @staticmethod
    def _new(log: _Log) -> bool:
        return len(log.text) > log.sent
