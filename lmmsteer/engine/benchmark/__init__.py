"""The benchmark in parts: workload, contenders, race, roofline, report; engine/bench.py runs it."""
