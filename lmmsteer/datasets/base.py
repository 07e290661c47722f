"""What a data set is to the rest: samples, each with its labels and a way to read its picture."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lmmsteer.schema import Picture


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
    """A dataclass of parameters that yields its samples, always in the same order."""

    name: str

    def samples(self) -> Iterator[Sample]: ...


def picture_of_bytes(image_id: str, data: bytes) -> Picture:
    return Picture(image_id, data, hashlib.sha256(data).hexdigest())


def read_picture(image_id: str, path: Path, root: Path) -> Picture:
    """The file's bytes; where they cannot be had, the reason as an error kind."""
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            return _unread(image_id, "picture_outside", f"{image_id} lies outside {root}")
        return picture_of_bytes(image_id, path.read_bytes())
    except FileNotFoundError:
        return _unread(image_id, "picture_missing", f"{image_id} is not there")
    except (OSError, RuntimeError) as error:
        return _unread(image_id, "picture_unreadable", f"{image_id} cannot be read: {error}")


def _unread(image_id: str, kind: str, error: str) -> Picture:
    return Picture(image_id, None, None, kind, error)
