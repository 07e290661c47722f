"""METEOR 1.5 by its own Java program, which is kept open: it takes ten seconds to start.

Protocol: a line `SCORE ||| reference ||| ... ||| answer` is answered by a line of counts; a line
`EVAL ||| counts ||| ...` by a score for each of the counts, then one of them all. English,
-norm, tokens of the Treebank, as in coco-caption. An answer without a word scores 0, unasked.
Source: Denkowski and Lavie 2014 (METEOR universal, W14-3348), meteor-1.5.jar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from analysis.captions import java, process
from analysis.captions.pair import Pair
from analysis.captions.treebank import Treebank

BATCH = 1000  # pairs of one EVAL line
WITHIN = "meteor/meteor-1.5.jar"
NAME = "METEOR"


class Meteor:
    """METEOR over pairs."""

    name = "meteor"

    def __init__(self, runs: java.Java, jar: Path, treebank: Treebank) -> None:
        self.java, self.jar, self.treebank = runs, jar, treebank
        self.program: process.Lines | None = None

    def scores(self, pairs: Sequence[Pair]) -> list[float | None]:
        spoken = self.treebank.pairs(pairs)
        asked = [i for i, pair in enumerate(spoken) if pair.answer]
        found: list[float | None] = [0.0] * len(pairs)
        for start in range(0, len(asked), BATCH):
            places = asked[start : start + BATCH]
            scored = self._batch([spoken[i] for i in places])
            for i, score in zip(places, scored, strict=True):
                found[i] = score
        return found

    def _batch(self, pairs: Sequence[Pair]) -> list[float]:
        program = self._open()
        lines = [" ||| ".join(("SCORE", *pair.references, pair.answer)) for pair in pairs]
        counts = program.ask(lines, len(lines))
        for said in counts:
            _numbers(said)
        whole = program.ask([" ||| ".join(("EVAL", *counts))], len(counts) + 1)
        return [_score(said) for said in whole[:-1]]

    def _open(self) -> process.Lines:
        if self.program is None:
            command = [self.java.path(NAME), "-Xmx2G", java.UTF8, "-jar", str(self.jar)]
            command += ["-", "-", "-stdio", "-l", "en", "-norm"]
            self.program = process.Lines(NAME, command, self.jar.parent, self.java.seconds)
        return self.program

    def close(self) -> None:
        if self.program is not None:
            self.program.close()
            self.program = None


def _numbers(said: str) -> list[float]:
    try:
        found = [float(word) for word in said.split()]
    except ValueError:
        found = []
    if not found or not all(math.isfinite(number) for number in found):
        raise process.failed(NAME, f"answered {said[:80]!r} where numbers belong")
    return found


def _score(said: str) -> float:
    found = _numbers(said)
    if len(found) != 1 or not 0 <= found[0] <= 1:
        raise process.failed(NAME, f"answered {said[:80]!r} where a score belongs")
    return found[0]
