"""What this process has in memory, as Linux tells it."""

import mmap
from pathlib import Path

import pytest

STATM = Path("/proc/self/statm")
told = pytest.mark.skipif(not STATM.exists(), reason="this system does not tell")


def resident() -> int:
    """Bytes."""
    return int(STATM.read_text().split()[1]) * mmap.PAGESIZE
