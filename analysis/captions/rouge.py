"""ROUGE-L of an answer against its references, without Java.

With LCS the longest common subsequence of words, answer a and references r:
P = max_r LCS(a, r) / |a|, R = max_r LCS(a, r) / |r|,
ROUGE-L = (1 + b^2) P R / (R + b^2 P), b = 1.2; 0 for an answer without a word.
Words are the project's own (lower-cased runs of letters, digits and apostrophes), where
coco-caption has the Penn Treebank's.
Source: Lin 2004 (ROUGE, W04-1013), section 3; the maxima over references and b are coco-caption's
(Chen et al. 2015, arXiv 1504.00325).
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.captions.pair import Pair
from analysis.words import split

BETA = 1.2


class RougeL:
    """ROUGE-L, every different text split once per call."""

    name = "rouge_l"

    def scores(self, pairs: Sequence[Pair]) -> list[float | None]:
        texts = {text for pair in pairs for text in (pair.answer, *pair.references)}
        words = {text: split(text) for text in texts}
        return [
            rouge_l(words[pair.answer], [words[text] for text in pair.references]) for pair in pairs
        ]

    def close(self) -> None:
        """Nothing is open."""


def rouge_l(answer: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """ROUGE-L of words against one reference or more; in [0, 1]."""
    common = [(longest_common(answer, words), len(words)) for words in references if words]
    if not answer or not common:
        return 0.0
    precision = max(length for length, _ in common) / len(answer)
    recall = max(length / words for length, words in common)
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    The rows of the usual table are bits of one number, a row a word of `second`.
    Source: Hyyro 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: dict[str, int] = {}
    for i, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << i
    ones = (1 << len(first)) - 1
    row = ones
    for word in second:
        met = row & places.get(word, 0)
        row = (row + met | row - met) & ones
    return len(first) - row.bit_count()
