"""lmmsteer's engine against transformers' generate with hooks: python -m lmmsteer.engine.bench.

Needs torch, transformers, numpy and Pillow; neither Ray nor Hydra nor pyarrow.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from lmmsteer.engine.benchmark import report, shapes
from lmmsteer.engine.benchmark.options import CONTENDERS, OPEN5, Options
from lmmsteer.engine.benchmark.run import bench
from lmmsteer.errors import LmmsteerError, RunFailed


def show(found: dict[str, Any], target: str | None) -> None:
    """The table on screen, JSON into a file; target `-`: JSON on screen instead."""
    if target == "-":
        print(json.dumps(found, indent=1))
        return
    print(report.table(found))
    if target is not None:
        try:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(target).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise RunFailed(f"json={target} cannot be written: {error}.") from error


def parser() -> argparse.ArgumentParser:
    """The options of the module; the verb `lmmsteer bench` has the same as keys."""
    line = argparse.ArgumentParser("python -m lmmsteer.engine.bench", description=__doc__)
    which = line.add_mutually_exclusive_group()
    which.add_argument("--model", default="demo", help="a folder, a hub id, or demo")
    which.add_argument("--shape", help=f"a random model: {', '.join(shapes.SHAPES)}")
    line.add_argument("--revision")
    line.add_argument("--family", default="auto")
    line.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    line.add_argument("--device", default="auto", help="auto, cpu, cuda, hpu")
    line.add_argument("--threads", type=int, help="CPU threads")
    line.add_argument("--pictures", type=int, default=16)
    line.add_argument("--folder", help="pictures of yours instead of random noise")
    line.add_argument("--picture-size", type=int, default=512, help="pixels, of random noise")
    line.add_argument("--prompts", type=int, default=5, help="of the five open prompts")
    line.add_argument("--seeds", type=int, default=3)
    line.add_argument("--lengths", default="mixed", help="fixed:N, mixed, or a file")
    line.add_argument("--temperature", type=float, default=0.75, help="0 is greedy")
    line.add_argument("--top-k", type=int, default=50)
    line.add_argument("--top-p", type=float, default=1.0)
    line.add_argument("--unsteered", dest="steered", action="store_false")
    line.add_argument("--no-overhead", dest="overhead", action="store_false")
    line.add_argument(
        "--contenders", type=_words, default=Options.contenders, help=",".join(CONTENDERS)
    )
    line.add_argument("--slots", type=int, help="rows that ours answers at a time")
    line.add_argument("--strict", action="store_true", help="ours: bit-reproducible rows")
    line.add_argument("--batch-sizes", type=_numbers, default=(), help="tried for the others")
    line.add_argument("--sweep-tokens", type=int, default=16, help="steps timed for each of them")
    line.add_argument("--check-rows", type=int, default=15, help="greedy answers compared")
    line.add_argument("--check-tokens", type=int, default=24)
    line.add_argument("--repeats", type=int, default=3)
    line.add_argument("--seed", type=int, default=0)
    line.add_argument("--json", nargs="?", const="-", help="into a file, or on screen")
    return line


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes as `lmmsteer`'s: 1 where something failed, 2 where it was refused."""
    asked = vars(parser().parse_args(arguments))
    count, seeds = asked.pop("prompts"), asked.pop("seeds")
    transformers_logging.set_verbosity_error()
    try:
        texts = dict(islice(OPEN5.items(), count))
        options = Options(**asked, prompts=texts, seeds=tuple(range(seeds)))
        show(bench(options, lambda line: print(line, file=sys.stderr)), options.json)
    except LmmsteerError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1 if isinstance(error, RunFailed) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
