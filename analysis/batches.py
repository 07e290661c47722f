"""A cell's rows some at a time, no picture's rows in two of them.

Knows how rows are cut into batches, and nothing of what they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import polars as pl

Frames = Callable[[], Iterator[pl.DataFrame]]


def whole_pictures(frames: Frames, rows: int) -> Iterator[pl.DataFrame]:
    """Batches of about so many rows, where the rows of a picture stand together; one at least."""
    held: list[pl.DataFrame] = []
    for frame in frames():
        held.append(frame)
        if sum(map(len, held)) >= rows:
            whole = pl.concat(held, how="vertical_relaxed")
            ended = whole["image_id"].ne_missing(whole["image_id"][-1])
            if ended.any():
                yield whole.filter(ended)
            held = [whole.filter(~ended)]  # More rows of this picture may come.
    if held:
        yield pl.concat(held, how="vertical_relaxed")


def by_hash(frames: Frames, rows: int, total: int) -> Iterator[pl.DataFrame]:
    """Batches of about so many of `total` rows, wherever the rows of a picture stand.

    The frames are read once for each batch.
    """
    passes = -(-total // rows)
    for number in range(passes):
        mine = pl.col("image_id").hash() % passes == number
        yield pl.concat([frame.filter(mine) for frame in frames()], how="vertical_relaxed")
