"""python -m tests.corruption N [first seed]: N corruptions, and what was missed; exit 1 if any."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.corruption.campaign import Tally, run

AT_ONCE = 250


def main(arguments: list[str]) -> int:
    count = int(arguments[0]) if arguments else 200
    first = int(arguments[1]) if len(arguments) > 1 else 0
    workers = min(len(os.sched_getaffinity(0)), 1 + count // 500)
    starts = range(first, first + count, AT_ONCE)
    sizes = [min(AT_ONCE, first + count - start) for start in starts]
    begun = time.monotonic()
    total = Tally()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for tally in pool.map(run, starts, sizes):
            total.made.update(tally.made)
            total.missed += tally.missed
            print(*tally.missed, sep="\n", end="\n" if tally.missed else "", flush=True)
            print(f"{total.made.total()} of {count}", file=sys.stderr, flush=True)
    seconds = time.monotonic() - begun
    for kind, made in sorted(total.made.items()):
        print(f"{made:7} {kind}")
    made, seeds = total.made.total(), f"{first} to {first + count - 1}"
    print(f"{made} corruptions (seeds {seeds}) in {seconds:.0f} s: {len(total.missed)} missed")
    return 1 if total.missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
