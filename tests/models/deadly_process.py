"""The decoding process, but some files do to it what only unknown faults of a decoder could."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from lmmsteer.models import picture_process
from lmmsteer.models.pictures import decode

honest = picture_process._answer
HEADER = picture_process.HEADER
LIES = {
    b"LIE 10 GB": HEADER.pack(0, False, 60_000, 60_000, 3 * 60_000 * 60_000),
    b"LIE size": HEADER.pack(0, False, 2, 2, 13) + bytes(13),
    b"LIE nothing": HEADER.pack(0, False, 0, 0, 0),
    b"LIE outcome": HEADER.pack(9, False, 1, 1, 3) + bytes(3),
    b"LIE long": HEADER.pack(1, False, 0, 0, 1 << 40),
    b"LIE json": HEADER.pack(1, False, 0, 0, 4) + b"[\xff]]",
    b"LIE list": HEADER.pack(1, False, 0, 0, 2) + b"42",
    b"LIE kind": HEADER.pack(1, False, 0, 0, 11) + b'["ok", "x"]',
    b"LIE short": HEADER.pack(0, False, 2, 2, 12)[:9],
}


def deadly(data: bytes) -> Image.Image:
    word, _, path = data.partition(b" ")
    if word == b"DIE":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == b"SLEEP":
        time.sleep(1000)
    if word == b"SPIN":
        while True:
            pass
    if word == b"FILL":
        hoard = [bytes(1 << 24) for _ in range(1 << 20)]
        raise AssertionError(len(hoard))
    if word == b"ONCE":
        _die_once(Path(path.decode()))
    return decode(data)


def lying(sink: BinaryIO, data: bytes, much: int) -> None:
    """What a process could answer that a picture has taken over."""
    if data in LIES:
        sink.write(LIES[data])
        sink.flush()
    else:
        honest(sink, data, much)


def _die_once(mark: Path) -> None:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    picture_process.decode = deadly
    picture_process._answer = lying
    picture_process.main(float(sys.argv[1]), int(sys.argv[2]))
