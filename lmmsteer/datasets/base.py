"""What a data set is to the rest: samples, each with its labels and a way to read its picture."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from errno import ELOOP
from pathlib import Path, PurePosixPath
from typing import Protocol

from lmmsteer.schema import Picture

MAX_FILE_BYTES = 256 << 20  # An uncompressed picture of the most pixels that are shown fits.
ADDRESS = re.compile("[A-Za-z][A-Za-z0-9+.-]*://|data:")
# A file that is no picture but a pipe or a device is never waited for, nor followed elsewhere.
OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True)
class Sample:
    """One picture of a data set, not yet read.

    labels: of schema.LABELS, those that the data set has; extra: its other columns, as text.
    """

    image_id: str
    read: Callable[[], Picture]
    group_id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)


class DataSet(Protocol):
    """A dataclass of parameters that yields its samples, always in the same order.

    One whose pictures are costly to read says in `picture_bytes` about how large they are.
    """

    @property
    def name(self) -> str: ...

    def samples(self) -> Iterator[Sample]: ...


def picture_of_bytes(image_id: str, data: bytes) -> Picture:
    return Picture(image_id, data, hashlib.sha256(data).hexdigest())


def read_named(image_id: str, root: Path, name: str) -> Picture:
    """The picture that a metadata file calls `name`: a path below `root`, and nothing else."""
    path = PurePosixPath(name)
    if ADDRESS.match(name):
        return _unread(image_id, "picture_outside", "is an address, not a file of the folder")
    if path.is_absolute() or ".." in path.parts:
        return _unread(image_id, "picture_outside", "is no path below the folder")
    return read_picture(image_id, root / name, root)


def read_picture(image_id: str, path: Path, root: Path) -> Picture:
    """The file's bytes; where they cannot be had, the reason as an error kind.

    `picture_missing`: not there. `picture_outside`: leads out of `root`. `picture_too_large`: more
    than MAX_FILE_BYTES. `picture_unreadable`: a folder, pipe or device, or a refusal of the system.
    """
    try:
        real = path.resolve()
        if not real.is_relative_to(root.resolve()):
            return _unread(image_id, "picture_outside", "leads out of the folder")
        return _read(image_id, real)
    except (FileNotFoundError, NotADirectoryError):
        return _unread(image_id, "picture_missing", "is not there")
    except OSError as error:
        return _unread(image_id, "picture_unreadable", f"cannot be read: {error.strerror}")
    except RuntimeError:  # What Python before 3.13 makes of links in a ring.
        return _unread(image_id, "picture_unreadable", f"cannot be read: {os.strerror(ELOOP)}")


def _read(image_id: str, path: Path) -> Picture:
    if not stat.S_ISREG(path.stat().st_mode):  # To open a device may do something to it.
        return _unread(image_id, "picture_unreadable", "is no file but a folder, pipe or device")
    with open(os.open(path, OPEN), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            said = f"is a file of {size} bytes, more than {MAX_FILE_BYTES}"
            return _unread(image_id, "picture_too_large", said)
        data = file.read(size + 1)
    if len(data) != size:
        return _unread(image_id, "picture_unreadable", "changed while it was read")
    return picture_of_bytes(image_id, data)


def _unread(image_id: str, kind: str, why: str) -> Picture:
    return Picture(image_id, None, None, kind, f"{image_id} {why}")
