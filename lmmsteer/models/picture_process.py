"""The process that decodes pictures for another, so that what a file does to it harms nobody else.

Run as `python -m lmmsteer.models.picture_process SECONDS BYTES`. stdin: picture files, each behind
its length. stdout: READY, then for each file an answer: HEADER, then the RGB bytes or a JSON list
[error kind, reason]. It ends with its stdin or its parent. BYTES of address space, SECONDS of
processor time for a picture, no file written; only Linux knows all of these limits.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from lmmsteer.errors import PictureError
from lmmsteer.models.pictures import decode

READY = b"ready\n"
LENGTH = struct.Struct(">Q")
# Outcome, whether the process has needed half its memory, width, height, bytes that follow.
HEADER = struct.Struct(">B?IIQ")
SHOWN, REFUSED, NO_MEMORY = range(3)
MAX_FILES = 64
PR_SET_PDEATHSIG = 1


def main(seconds: float, memory: int) -> None:
    """Answer pictures until stdin ends."""
    source, sink = _take_pipes()
    _end_with_parent()
    Image.init()
    _only_one_thread()
    _limit(memory)
    sink.write(READY)
    sink.flush()
    while (head := source.read(LENGTH.size)) and len(head) == LENGTH.size:
        data = source.read(LENGTH.unpack(head)[0])
        _limit_processor(seconds)
        _answer(sink, data, memory // 2)
        del data  # Before the next one comes.


def _answer(sink: BinaryIO, data: bytes, much: int) -> None:
    size = (0, 0)
    try:
        image = decode(data)
        size, outcome, payload = image.size, SHOWN, image.tobytes()
    except PictureError as error:
        outcome, payload = REFUSED, json.dumps([error.kind, str(error)]).encode()
    except MemoryError:
        outcome, payload = NO_MEMORY, b""
    sink.write(HEADER.pack(outcome, _peak() > much, *size, len(payload)))
    sink.write(payload)
    sink.flush()


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """stdin and stdout for frames alone: what a C library prints goes nowhere."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    os.close(nowhere)
    return source, sink


def _end_with_parent() -> None:
    """A signal to the group is the parent's matter; where memory ends, this process goes first."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):  # Some containers show no such file.
            Path("/proc/self/oom_score_adj").write_text("1000")


def _only_one_thread() -> None:
    """Threads' stacks count as memory, and their number differs from host to host."""
    avif = sys.modules.get("PIL.AvifImagePlugin")
    if avif is not None:
        avif.DEFAULT_MAX_THREADS = 1  # type: ignore[attr-defined]


def _limit(memory: int) -> None:
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_FSIZE, 0)
    _set(resource.RLIMIT_NOFILE, MAX_FILES)
    if sys.platform == "linux":
        _set(resource.RLIMIT_AS, memory)


def _limit_processor(seconds: float) -> None:
    """The parent's clock is the deadline; this one ends a picture that the parent cannot."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    limit = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (_most(limit, hard), hard))


def _set(kind: int, value: int) -> None:
    most = _most(value, resource.getrlimit(kind)[1])
    resource.setrlimit(kind, (most, most))


def _most(value: int, hard: int) -> int:
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def _peak() -> int:
    """The most address space that the process has had, in bytes; 0 where it cannot be known."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmPeak:")[2].split()[0]) * 1024
    return 0


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
