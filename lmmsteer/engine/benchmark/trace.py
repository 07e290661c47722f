"""How long each row's answer is: a trace that is forced on every contender.

Random weights end no answer where a trained model would; forced lengths make a benchmark of them
mean something, and give every contender the same work.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmmsteer.errors import LmmsteerError

# Assumed answer lengths of the five open prompts: a description, two stories, two keyword lists.
MEANS = (130, 350, 250, 40, 40)
DEVIATIONS = (40, 90, 80, 15, 15)
LONGEST = 512

MEND = "Use fixed:N, mixed, or a file: a JSON list of numbers, or a part of out/responses"


def lengths(spec: str, prompts: Sequence[int], seed: int = 0) -> list[int]:
    """New tokens of each row. prompts: the index of each row's prompt.

    `fixed:N`: N everywhere. `mixed`: normal by prompt (`MEANS`, `DEVIATIONS`, prompts beyond the
    fifth begin anew), rounded, cut to [1, 512]. Otherwise a file's numbers in its order, from the
    beginning again where there are more rows.
    Raises: LmmsteerError for a spec that is none of these, or a file that holds no lengths.
    """
    if spec.startswith("fixed:"):
        return [_fixed(spec)] * len(prompts)
    if spec == "mixed":
        return _mixed(prompts, seed)
    recorded = _recorded(Path(spec))
    return [recorded[row % len(recorded)] for row in range(len(prompts))]


def _fixed(spec: str) -> int:
    number = spec.partition(":")[2]
    if not number.isdigit() or int(number) < 1:
        raise LmmsteerError(f"lengths={spec} does not give a number of tokens.", MEND)
    return int(number)


def _mixed(prompts: Sequence[int], seed: int) -> list[int]:
    kinds = np.asarray(prompts, dtype=int) % len(MEANS)
    draws = np.random.default_rng(seed).standard_normal(len(kinds))
    drawn = np.asarray(MEANS)[kinds] + np.asarray(DEVIATIONS)[kinds] * draws
    return [int(n) for n in np.clip(np.rint(drawn), 1, LONGEST)]


def _recorded(file: Path) -> list[int]:
    if not file.is_file():
        raise LmmsteerError(f"lengths={file} is not a file.", MEND)
    found = _parquet(file) if file.suffix == ".parquet" else _json(file)
    # A row that failed has no length, an empty answer still costs its end-of-sequence token.
    numbers = [max(1, n) for n in found if n is not None]
    if not numbers:
        raise LmmsteerError(f"lengths={file} holds no lengths.", MEND)
    return numbers


def _json(file: Path) -> list[Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LmmsteerError(f"lengths={file} cannot be read as JSON: {error}.", MEND) from error
    if not isinstance(found, list) or not all(type(n) is int for n in found):
        raise LmmsteerError(f"lengths={file} is not a list of whole numbers.", MEND)
    return found


def _parquet(file: Path) -> list[Any]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        mend = "pip install pyarrow, or give a JSON list"
        raise LmmsteerError(f"lengths={file} needs pyarrow to be read.", mend) from error
    try:
        return parquet.read_table(file, columns=["new_tokens"]).column(0).to_pylist()
    except (ArrowException, OSError, IndexError) as error:
        raise LmmsteerError(f"lengths={file} has no column new_tokens: {error}.", MEND) from error
