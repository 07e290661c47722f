"""Rows and failed rows of many parts, from their footers; each footer is read once."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from lmmsteer import parts
from lmmsteer.parts import DamagedPart
from lmmsteer.store import Store

PROBED = 16  # Footers by which a store is found slow or fast.
SLOW = 0.001  # Seconds that one is waited for; below, threads would only queue for each other.
READERS = 32


class Count(NamedTuple):
    """Rows of a part, and those of them that failed, by error kind."""

    rows: int
    failed: tuple[tuple[str, int], ...]


class Footers:
    """What parts say of themselves. A part is read again only where its size or time differ.

    On object stores the name alone tells a part from another: a part that `resume retry=true` or
    `verify repair=true` makes again between two calls keeps its old counts.
    """

    def __init__(self, store: Store) -> None:
        self.store, self._root = store, store.local("")
        self._known: dict[str, tuple[object, Count]] = {}

    def read(self, paths: Iterable[str]) -> dict[str, Count | DamagedPart]:
        """The counts of parts, or what is wrong with one; a part that is gone is left out."""
        asked = list(paths)
        found, waited = self._probe(asked[:PROBED])
        if len(asked) > PROBED and waited > SLOW:
            with ThreadPoolExecutor(READERS, thread_name_prefix="footer") as pool:
                found += pool.map(self._one, asked[PROBED:])
        else:
            found += map(self._one, asked[PROBED:])
        return {path: one for path, one in zip(asked, found, strict=True) if one is not None}

    def _probe(self, paths: Sequence[str]) -> tuple[list[Count | DamagedPart | None], float]:
        """The first parts one by one, and the median of the seconds that each was waited for."""
        found, waited = [], [0.0]
        for path in paths:
            start = time.perf_counter() - time.thread_time()
            found.append(self._one(path))
            waited.append(time.perf_counter() - time.thread_time() - start)
        return found, statistics.median(waited)

    def _one(self, path: str) -> Count | DamagedPart | None:
        stamp = self._stamp(path)
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            count = _count(self.store, path)
        except DamagedPart as damage:
            return damage if self.store.exists(path) else None  # Moved aside just now.
        self._known[path] = stamp, count
        return count

    def _stamp(self, path: str) -> object:
        if self._root is None:
            return None
        try:
            found = os.stat(f"{self._root}/{path}")
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns, found.st_ino


def failed_counts(meta: Mapping[str, str]) -> dict[str, int]:
    """What a footer says of failed rows, by error kind. Raises ValueError where it says nothing."""
    counts = json.loads(meta.get("lmmsteer.failed", "{}"))
    if not isinstance(counts, dict) or not all(isinstance(n, int) for n in counts.values()):
        raise ValueError("its footer does not count the failed rows")
    return counts


def _count(store: Store, path: str) -> Count:
    footer = parts.read_footer(store, path)
    try:
        return Count(footer.rows, tuple(failed_counts(footer.meta).items()))
    except ValueError as error:
        raise parts.damaged(store, path, str(error)) from error
