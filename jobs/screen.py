"""What verbs show on the screen: aligned columns, and numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines whose columns stand below each other, two spaces apart."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    padded = ([text.ljust(width) for text, width in zip(row, widths, strict=False)] for row in rows)
    return ["  ".join(row).rstrip() for row in padded]


def counted(done: int, total: int, widest: int, what: str) -> str:
    """`7 of 12 shards`, right-aligned to the widest of its column."""
    width = len(str(widest))
    return f"{done:>{width}} of {total:>{width}} {what}"


def number(count: int, what: str) -> str:
    """1 cell, 2 cells."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def clock(seconds: float) -> str:
    """45 s, 2.6 min, 12 min, 5.2 h, 3.1 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        value, unit = seconds / 60, "min"
    else:
        value, unit = (seconds / 3600, "h") if seconds < 172_800 else (seconds / 86_400, "days")
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def size(count: float) -> str:
    """Bytes in powers of ten: 512 B, 3.4 MB, 1.2 TB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def kinds(failed: Mapping[str, int]) -> str:
    """Failed rows by reason: `15 picture_broken, 2 nonfinite`, or 0."""
    return ", ".join(f"{count} {kind}" for kind, count in failed.items()) or "0"


def between(numbers: Mapping[str, Any], show: Any) -> str:
    """An estimate and, where there is one, its 95% interval: `about 12 min (9 min to 16 min)`."""
    about = f"about {show(numbers['estimate'])}"
    if numbers["low"] is None:
        return about
    return f"{about} ({show(numbers['low'])} to {show(numbers['high'])})"
