"""Words as coco-caption has them: the Penn Treebank's tokens, lower-cased, without punctuation.

Source: Chen et al. 2015 (arXiv 1504.00325), by Stanford's PTBTokenizer (CoreNLP 3.4.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.captions import java, process
from analysis.captions.pair import Pair

CLASS = "edu.stanford.nlp.process.PTBTokenizer"
WITHIN = "tokenizer/stanford-corenlp-3.4.1.jar"
# As in coco-caption, where brackets stay: its list has them in capitals, which are lower-cased.
PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
BAR = "|||"  # METEOR's lines are cut there.


@dataclass(frozen=True)
class Treebank:
    """The tokenizer's jar and the Java that runs it, once for each call."""

    java: java.Java
    jar: Path

    def pairs(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The same pairs in tokens with a blank between them."""
        said = self.tokens({text for pair in pairs for text in (pair.answer, *pair.references)})
        return [
            Pair(said[pair.answer], tuple(said[text] for text in pair.references)) for pair in pairs
        ]

    def tokens(self, texts: Iterable[str]) -> dict[str, str]:
        """{text: its tokens}. Raises: RunFailed where the program fails or loses a line."""
        unique = sorted(set(texts))
        if not unique:
            return {}
        command = [self.java.path("The tokenizer"), java.UTF8, "-cp", str(self.jar), CLASS]
        command += ["-preserveLines", "-lowerCase"]
        whole = "".join(f"{' '.join(text.split())}\n" for text in unique)
        seconds = self.java.seconds
        out, _ = process.finished("The tokenizer", command, self.jar.parent, whole, seconds)
        lines = out.split("\n")
        if len(lines) != len(unique) + 1 or lines[-1].strip():
            told = f"wrote {len(lines) - 1:,} lines for {len(unique):,} texts"
            raise process.failed("The tokenizer", told)
        return {text: _words(line) for text, line in zip(unique, lines, strict=False)}


def _words(line: str) -> str:
    words = line.replace(BAR, " ").split()
    return " ".join(word for word in words if word not in PUNCTUATION)
