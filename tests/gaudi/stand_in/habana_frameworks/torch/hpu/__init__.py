"""The card: one or as many as LMMSTEER_STAND_IN_CARDS says, each with 96 GB of which we take none.

memory: what `watch_memory` and `memory` of lmmsteer/device.py read.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from habana_frameworks.torch.hpu import graphs, metrics
from habana_frameworks.torch.hpu.graphs import HPUGraph, graph, wrap_in_hpu_graph

__all__ = ["HPUGraph", "graph", "graphs", "metrics", "wrap_in_hpu_graph"]
TOTAL = 96 * 10**9
peak = 3 * 10**9


def is_available() -> bool:
    return device_count() > 0


def is_initialized() -> bool:
    return is_available()


def device_count() -> int:
    return int(os.environ.get("LMMSTEER_STAND_IN_CARDS", "1"))


def current_device() -> int:
    return 0


def get_device_name(index: int = 0) -> str:
    return "GAUDI2"


def synchronize() -> None:
    pass


def mem_get_info(index: int = 0) -> tuple[int, int]:
    return TOTAL - 2 * 10**9, TOTAL


def max_memory_allocated(index: int = 0) -> int:
    return peak


def reset_peak_memory_stats(index: int = 0) -> None:
    global peak
    peak = 0


def memory_stats(index: int = 0) -> dict[str, int]:
    return {"InUse": 2 * 10**9, "MaxInUse": peak, "Limit": TOTAL}


class Stream:
    def synchronize(self) -> None:
        pass


def default_stream() -> Stream:
    return Stream()


@contextmanager
def stream(_: Stream) -> Iterator[None]:
    yield


@contextmanager
def sdp_kernel(**_: object) -> Iterator[None]:
    yield
