"""Where production code touches what is not simulated, something else is put while a world runs.

Pure functions of bytes are remembered by their bytes: a campaign reads the same few parts millions
of times. How often the disk is asked never hangs on what is remembered.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pyarrow as pa

from jobs import generate, resume
from lmmsteer import fingerprint, manifest, parts, seal
from lmmsteer.device import Device
from lmmsteer.fleet import commit, driver, engines, journal, scheduler, shard, stack, worker
from lmmsteer.fleet.verify import contents
from tests.simulation.model import Shown, Weights

BORN = 1_800_000_000.0  # The simulation's first second, by the hosts' clocks.


class Here:
    """The world that runs now; there is one at a time in a process of this machine."""

    world: Any = None
    alone: Any = None  # A process that runs outside the world's clock.

    @property
    def process(self) -> Any:
        return self.alone or self.world.running[self.world.turns.current]


here = Here()


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Production code runs in `here.world` for the length of the block."""
    with contextlib.ExitStack() as patches:
        for target, name, stand_in in _stand_ins():
            patches.enter_context(mock.patch.object(target, name, stand_in, create=True))
        yield


def _stand_ins() -> list[tuple[Any, str, Any]]:
    torch = SimpleNamespace(set_num_threads=lambda count: None, OutOfMemoryError=MemoryError)
    versions = stack.versions()
    return [
        (worker, "torch", torch),
        (worker, "device", SimpleNamespace(detect=lambda kind: Device("cpu"))),
        (worker, "open_store", lambda out: here.process.store),
        (worker, "Metrics", lambda: SimpleNamespace(count=lambda *_: None)),
        (worker, "lmm", SimpleNamespace(load=_load)),
        (engines, "open_engine", lambda config: here.process.open_engine()),
        (shard, "Decoded", Shown),
        (stack, "versions", lambda: versions),
        (commit, "part_bytes", _remember_parts()),
        (parts, "read_footer", _remember(parts.read_footer, lambda path: path)),
        (manifest, "read_rows", _remember(manifest.read_rows, _path("rows"))),
        (manifest, "read_pictures", _remember(manifest.read_pictures, _path("images"))),
        (contents, "open_part", _by_identity(contents.open_part)),
        (contents, "content_digest", _by_identity(contents.content_digest)),
        (seal, "read_record", _by_bytes(seal.read_record)),
        (fingerprint, "digest", _by_identity(fingerprint.digest)),
        (fingerprint, "differences", _by_identity(fingerprint.differences)),
        (manifest, "in_order", lambda work, items, threads: map(work, items)),
        (generate, "Display", _Display),
        (generate, "fleet", SimpleNamespace(carry_out=lambda *given: here.process.answer(*given))),
        (generate, "print", lambda *words, **_: here.process.tell(*words)),
        (resume, "print", lambda *words, **_: here.process.tell(*words)),
        (resume, "time", _Time),
        (journal, "time", _Time),
        (journal, "datetime", _Datetime),
        (journal, "random", SimpleNamespace(random=lambda: here.world.chance.random())),
        (journal, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=_hex()))),
        (scheduler, "BREAKER_ROWS", scheduler.BREAKER_ROWS),
        (driver, "START_SECONDS", 12.0),
        (driver, "LONGEST_BREAK", 3.0),
    ]


class _Display:
    """A terminal that shows nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *_: object) -> None: ...

    def add(self, rows: int, failed: int) -> None: ...


class _Time:
    """The clock of the host that a process runs on."""

    strftime = time.strftime

    @staticmethod
    def gmtime() -> time.struct_time:
        return time.gmtime(BORN + here.process.wall)

    @staticmethod
    def time_ns() -> int:
        return int((BORN + here.process.wall) * 1e9) + here.world.number()


class _Datetime(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(BORN + here.process.wall, tz or timezone.utc)


def _hex() -> str:
    return f"{here.world.number():032x}"[::-1]


def _load(**asked: Any) -> Weights:
    here.process.load(asked["name"])
    return Weights(asked["name"])


def _path(kind: str) -> Callable[..., str]:
    return lambda dataset, part: f"{manifest.folder(dataset)}/{kind}/{part}"


class _Holding:
    """A store that holds one file, or the error that reading it gave."""

    def __init__(self, root: str, data: bytes | OSError) -> None:
        self.root, self.data = root, data

    def local(self, path: str) -> None:
        return None

    def read_bytes(self, path: str) -> bytes:
        if isinstance(self.data, OSError):
            raise self.data
        return self.data

    def open_input(self, path: str) -> pa.NativeFile:
        return pa.BufferReader(self.read_bytes(path))


def _remember(read: Callable[..., Any], path_of: Callable[..., str]) -> Callable[..., Any]:
    """The same function of a store's file, remembered by the file's bytes."""
    known: dict[bytes, Any] = {}

    def remembered(store: Any, *named: str) -> Any:
        data: bytes | OSError
        try:
            data = store.read_bytes(path_of(*named))
        except OSError as error:
            data = error
        if isinstance(data, OSError):
            return read(_Holding(store.root, data), *named)
        if data not in known:
            known[data] = read(_Holding(store.root, data), *named)
        return known[data]

    return remembered


def _by_bytes(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    known: dict[bytes, Any] = {}

    def remembered(data: bytes) -> Any:
        if data not in known:
            known[data] = read(data)
        return known[data]

    return remembered


def _by_identity(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Of mappings that are never changed: kept, so that no other gets the same identity."""
    known: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def remembered(*given: Any) -> Any:
        key = tuple(map(id, given))
        if key not in known:
            known[key] = given, compute(*given)
        return known[key][1]

    return remembered


def _remember_parts() -> Callable[..., bytes]:
    known: dict[Any, bytes] = {}
    make = commit.part_bytes

    def part_bytes(responses: Any, task: Any, failed: Any) -> bytes:
        key = (task.fingerprint, *((r.row_id, r.text, r.error_kind) for r in responses))
        if key not in known:
            known[key] = make(responses, task, failed)
        return known[key]

    return part_bytes
