"""Peak memory of one run, and what running out of it looks like."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import torch

from lmmsteer.device import Device

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak(device: Device) -> None:
    """Begin to measure anew; on systems that cannot, the peak stays that of the process."""
    if device.kind == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR.exists():
        try:
            CLEAR.write_text("5")  # Linux: VmHWM becomes the present size.
        except OSError:
            return


def peak(device: Device) -> int:
    """Bytes: what torch allocated on the card, or the resident size of the process."""
    if device.kind == "cuda":
        return torch.cuda.max_memory_allocated()
    if STATUS.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())):
        return int(found.group(1)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def held(device: Device) -> int:
    """Bytes in use now: on the card, or of the process where the system tells."""
    if device.kind == "cuda":
        return torch.cuda.memory_allocated()
    if STATUS.exists() and (found := re.search(r"VmRSS:\s+(\d+) kB", STATUS.read_text())):
        return int(found.group(1)) * 1024
    return 0


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory is used up, on a card or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
