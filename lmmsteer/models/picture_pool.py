"""Decoding in processes of their own: whatever a picture does there, its reason comes back.

A few threads, each with one process (picture_process.py) that it keeps. One that dies, hangs or
has grown is ended and another started; pictures of the others never notice.
"""

from __future__ import annotations

import atexit
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image

from lmmsteer.errors import PictureError, RunFailed
from lmmsteer.models.picture_child import Child, Limits

PROCESSES = 2


class Decoders:
    """Decodes pictures, `processes` at a time. The outcome is the same for the same bytes.

    A process that dies of a picture, or passes its deadline, may have been ended from outside: the
    picture is tried once more, in a fresh process, and that outcome is final. Where a process has
    needed half its memory, what went before may have played a part: a refusal is tried again too.
    """

    def __init__(self, limits: Limits | None = None, processes: int = PROCESSES) -> None:
        self.limits = limits or Limits()
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decode")
        self._own = threading.local()
        self._children: set[Child] = set()
        self._closed = False

    def submit(self, data: bytes) -> Future[Image.Image]:
        """The picture of a file's bytes.

        Raises, when it is asked for: PictureError of the kinds of `pictures.decode`, and
        `picture_timeout`, `picture_decoder_died`; RunFailed where no process can be started.
        """
        try:
            return self._threads.submit(self._decode, data)
        except RuntimeError:  # Closed, or Python is about to end.
            refused: Future[Image.Image] = Future()
            refused.set_exception(_closed())
            return refused

    def close(self) -> None:
        """End the processes; pictures that are waiting are given up."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in list(self._children):
            child.kill()
        self._threads.shutdown(wait=True)
        for child in self._children:
            child.end()

    def _decode(self, data: bytes) -> Image.Image:
        child = self._child()
        try:
            return self._ask(child, data)
        except PictureError:
            if not child.doubtful:
                raise
        return self._ask(self._child(), data)

    def _ask(self, child: Child, data: bytes) -> Image.Image:
        try:
            return child.decode(data)
        finally:
            if child.worn:
                self._children.discard(child)
                self._own.child = None
                child.end()

    def _child(self) -> Child:
        """This thread's own. Linux ends it with the thread, which lives as long as the pool."""
        child: Child | None = getattr(self._own, "child", None)
        if child is None:
            child = self._own.child = Child(self.limits)
            self._children.add(child)
        if self._closed:  # Looked at after it is among those that close() ends.
            raise _closed()
        return child


def _closed() -> RunFailed:
    return RunFailed("A picture was asked for after its decoders had been closed.")


_lock = threading.Lock()
_shared: list[Decoders] = []


def shared_decoders() -> Decoders:
    """Those of this process, started when they are first asked for and ended with it."""
    with _lock:
        if not _shared:
            _shared.append(Decoders())
            atexit.register(_shared[0].close)
        return _shared[0]
