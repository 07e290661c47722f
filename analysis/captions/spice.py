"""SPICE 1.0 by its own Java program: F1 of the scene graphs' tuples of answer and references.

It runs on Java 8 to 14 and needs CoreNLP 3.6.0 in a folder `lib` beside its jar, which no package
brings. It reads a JSON file of answers and references and writes another of scores; tokens of the
Treebank, as in coco-caption. Where neither side has a tuple the score is undefined.
Source: Anderson et al. 2016 (arXiv 1607.08822), spice-1.0.jar.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.captions import java, process
from analysis.captions.pair import Pair
from analysis.captions.treebank import Treebank
from lmmsteer.errors import LmmsteerError

NAME = "SPICE"
BATCH = 2000  # pairs of one run, which has `java_seconds` for them
RUNS_ON = range(8, 15)
PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


class Spice:
    """SPICE over pairs.

    Raises: LmmsteerError for another Java, or a jar without its parser.
    """

    name = "spice"

    def __init__(self, runs: java.Java, jar: Path, treebank: Treebank) -> None:
        self.java, self.jar, self.treebank = runs, jar, treebank
        _refuse(runs, jar)

    def scores(self, pairs: Sequence[Pair]) -> list[float | None]:
        spoken = self.treebank.pairs(pairs)
        found: list[float | None] = []
        for start in range(0, len(spoken), BATCH):
            found += self._batch(spoken[start : start + BATCH])
        return found

    def _batch(self, pairs: Sequence[Pair]) -> list[float | None]:
        with tempfile.TemporaryDirectory(prefix="spice-") as folder:
            asked, told = Path(folder, "in.json"), Path(folder, "out.json")
            items = [
                {"image_id": i, "test": pair.answer, "refs": list(pair.references)}
                for i, pair in enumerate(pairs)
            ]
            asked.write_text(json.dumps(items), encoding="utf-8")
            command = [self.java.path(NAME), "-Xmx8G", java.UTF8, "-jar", str(self.jar)]
            command += [str(asked), "-out", str(told), "-subset", "-silent"]
            process.guarded(NAME, command, self.jar.parent, self.java.seconds)
            return _scores(told, len(pairs))

    def close(self) -> None:
        """Nothing is open between runs."""


def _refuse(runs: java.Java, jar: Path) -> None:
    version = runs.version(NAME)
    if version not in RUNS_ON:
        raise LmmsteerError(
            f"SPICE 1.0 runs on Java 8 to 14, and {runs.command} is Java {version}.",
            "Name an older one (METEOR runs on it too): analysis.java=PATH"
            "\nOr do without it: analysis.caption_metrics=[rouge_l,meteor]",
        )
    absent = [name for name in PARSER if not (jar.parent / "lib" / name).is_file()]
    if absent:
        raise LmmsteerError(
            f"SPICE needs {absent[0]} in {jar.parent / 'lib'}, and it is not there.",
            "Copy it there from CoreNLP 3.6.0 (stanfordnlp.github.io/CoreNLP), or do without SPICE:"
            " analysis.caption_metrics=[rouge_l,meteor]",
        )


def _scores(told: Path, wanted: int) -> list[float | None]:
    """The F1 of every pair, in their order."""
    try:
        items = json.loads(told.read_text(encoding="utf-8"))
        found = {item["image_id"]: _f1(item["scores"]["All"]["f"]) for item in items}
        return [found[i] for i in range(wanted)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        why = f"wrote no scores that can be read ({type(error).__name__}: {error})"
        raise process.failed(NAME, why) from error


def _f1(value: Any) -> float | None:
    if value is None or value != value:
        return None
    if not 0 <= float(value) <= 1:
        raise ValueError(f"F1 {value}")
    return float(value)
