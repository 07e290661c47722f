"""Work done ahead by threads: its results in order, its memory bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """work(item) of every item, in the order of the items; at most 2 x threads are ahead.

    The first item that fails raises its error here, in its turn; what was not begun by then is not.
    """
    ahead: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) == 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


class Room:
    """Bytes for pieces of work under way; each is taken to need what the largest of late did.

    The first goes alone, and so does one that needs more than there is.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._largest = 0
        self._claimed = 0
        self._changed = Condition()

    @contextmanager
    def claim(self) -> Iterator[Callable[[int], None]]:
        """Wait for room. What is yielded is to be told how many bytes were needed."""
        with self._changed:
            self._changed.wait_for(lambda: self._claimed + self._next() <= self.limit)
            claimed = self._next()
            self._claimed += claimed
        try:
            yield self._needed
        finally:
            with self._changed:
                self._claimed -= claimed
                self._changed.notify_all()

    def _next(self) -> int:
        return min(self._largest or self.limit, self.limit)

    def _needed(self, size: int) -> None:
        with self._changed:
            self._largest = max(size, self._largest * 7 // 8, 1)
            self._changed.notify_all()
