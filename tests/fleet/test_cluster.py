"""What is done around Ray's own start and end."""

from __future__ import annotations

import ctypes
import signal
from types import SimpleNamespace
from typing import Any

from lmmsteer.fleet import cluster


def heeded() -> bool:
    """Whether this process, and not the system, answers SIGTERM."""
    with open("/proc/self/status") as file:
        (mask,) = (line.split()[1] for line in file if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def test_sigterm_stays_ours_while_ray_shuts_down_and_afterwards() -> None:
    seen: list[bool] = []

    def shutdown() -> None:
        ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(0))  # As Ray does, in C++.
        seen.append(heeded())
        worker._global_node.kill_all_processes(check_alive=False)
        ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(0))

    def kill_all_processes(**named: Any) -> None:
        seen.append(heeded())

    worker = SimpleNamespace(_global_node=SimpleNamespace(kill_all_processes=kill_all_processes))
    ray = SimpleNamespace(_private=SimpleNamespace(worker=worker), shutdown=shutdown)
    old = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        cluster._leave(ray)
        assert heeded()
    finally:
        signal.signal(signal.SIGTERM, old)
    assert seen == [False, True]


def test_leaving_a_ray_that_never_came_up_is_no_error() -> None:
    ray = SimpleNamespace(
        _private=SimpleNamespace(worker=SimpleNamespace(_global_node=None)), shutdown=list
    )
    cluster._leave(ray)
