"""Stands in for `java`: METEOR's, the tokenizer's and SPICE's protocols with sums by hand.

Called with a first argument MODE (fine, dies, hangs, nonsense), the rest as java. A METEOR of its
own: 2 * common words / (answer's words + reference's words), the best reference; SPICE the same.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path


def common(answer: str, reference: str) -> tuple[int, int]:
    one, other = answer.split(), reference.split()
    return 2 * len(set(one) & set(other)), len(one) + len(other)


def best(answer: str, references: list[str]) -> tuple[int, int]:
    return max((common(answer, text) for text in references), key=lambda c: c[0] / (c[1] or 1))


def fail(mode: str) -> None:
    if mode == "dies":
        print("Exception in thread main: no memory", file=sys.stderr)
        print("\tat Meteor.main(Unknown Source)", file=sys.stderr)
        sys.exit(1)
    if mode == "hangs":
        time.sleep(600)


def meteor(mode: str) -> None:
    for line in sys.stdin:
        fail(mode)
        kind, *rest = [part.strip() for part in line.split("|||")]
        if mode == "nonsense":
            print("[INFO] loading", flush=True)
        elif kind == "SCORE":
            print(*best(rest[-1], rest[:-1]), flush=True)
        else:
            found = [float(a) / float(b) for a, b in (text.split() for text in rest)]
            print("\n".join(map(str, [*found, sum(found) / len(found)])), flush=True)


def spice(mode: str, asked: str, told: str) -> None:
    fail(mode)
    items = json.loads(Path(asked).read_text())
    scores = [
        {"image_id": i["image_id"], "scores": {"All": {"f": a / b if b > 2 else None}}}
        for i in items
        for a, b in [best(i["test"], i["refs"])]
    ]
    Path(told).write_text("{" if mode == "nonsense" else json.dumps(scores))


def main(mode: str, version: str, pid: str, *arguments: str) -> None:
    with open(pid, "a") as file:
        print(os.getpid(), file=file)
    if arguments == ("-version",):
        print(f'openjdk version "{version}" 2020-01-01', file=sys.stderr)
    elif "-stdio" in arguments:
        meteor(mode)
    elif "-silent" in arguments:
        at = arguments.index("-jar")
        spice(mode, arguments[at + 2], arguments[at + 4])
    else:
        for line in sys.stdin:
            if mode != "loses":
                print(" ".join(re.findall(r"[\w']+|[.,!?]", line.lower())))


if __name__ == "__main__":
    main(*sys.argv[1:])
