"""A processor's memory that becomes real where it is written, in small pages or in large ones.

Reading much of it, step after step, from small pages costs a good part of the time in looking the
pages up; a large page (two megabytes on Linux) becomes real as a whole with its first byte.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

LARGE = 2 << 20


def zeros(shape: Sequence[int], dtype: torch.dtype, *, large: bool) -> Tensor:
    """Zeros that take no memory where nobody has written, as far as the system knows such memory.

    large: in large pages, where there is enough of it to fill one.
    Raises: torch.OutOfMemoryError where so much cannot even be reserved.
    """
    size = math.prod(shape) * dtype.itemsize
    flags = {name: getattr(mmap, name, 0) for name in ("MAP_PRIVATE", "MAP_ANONYMOUS")}
    if not size or (large and size < LARGE) or not all(flags.values()):
        return torch.zeros(tuple(shape), dtype=dtype)
    room = size + LARGE if large else size  # To begin where a page does.
    try:
        made = mmap.mmap(-1, room, flags=sum(flags.values()) | getattr(mmap, "MAP_NORESERVE", 0))
    except OSError as error:
        raise torch.OutOfMemoryError(f"{size:,} bytes cannot be reserved: {error}") from error
    advice = getattr(mmap, "MADV_HUGEPAGE" if large else "MADV_NOHUGEPAGE", None)
    if advice is not None:
        with suppress(OSError):  # A system without large pages has small ones.
            made.madvise(advice)
    whole = torch.frombuffer(made, dtype=torch.uint8)
    start = -whole.data_ptr() % LARGE if large else 0
    return whole[start : start + size].view(dtype).view(*shape)
