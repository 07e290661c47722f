"""Counters of the bridge; here only graphs that were compiled."""

compiled = 0


class _Metric:
    def stats(self) -> list[tuple[str, int]]:
        return [("TotalNumber", compiled), ("TotalTime", 0), ("AvgTime", 0)]


def metric_global(name: str) -> _Metric:
    assert name == "graph_compilation"
    return _Metric()
