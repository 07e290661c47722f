"""Whether a name occurs twice among many millions, in eight bytes for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np


def count(names: Callable[[], Iterable[str]]) -> tuple[int, str | None]:
    """How many names there are, and the first that had occurred before, or None.

    names: gives the same names each time. Only those whose 64-bit hashes are equal, if any, are
    gone through again and compared, so the answer is exact.
    """
    hashes = np.fromiter(map(hash, names()), np.int64)
    hashes.sort()
    suspect = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    seen: set[str] = set()
    for name in names() if suspect else ():
        if hash(name) in suspect:
            if name in seen:
                return len(hashes), name
            seen.add(name)
    return len(hashes), None
