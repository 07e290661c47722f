"""An answer and what it is held against, what scores it, and the words of gender made neutral."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

NEUTRAL = {
    "man": "person",
    "guy": "person",
    "woman": "person",
    "lady": "person",
    "son": "child",
    "boy": "child",
    "men": "people",
    "women": "people",
}
GENDERED = re.compile(rf"\b({'|'.join(NEUTRAL)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """An answer and the reference captions of its picture, one or more."""

    answer: str
    references: tuple[str, ...]

    def neutral(self) -> Pair:
        """The same answer against the references without words of gender."""
        return Pair(self.answer, tuple(neutral(text) for text in self.references))


class Scorer(Protocol):
    """A metric over pairs."""

    name: str

    def scores(self, pairs: Sequence[Pair]) -> list[float | None]:
        """The score of each pair in [0, 1]; None where the metric is undefined."""
        ...

    def close(self) -> None: ...


def neutral(text: str) -> str:
    """man, guy, woman, lady: person; son, boy: child; men, women: people; as whole words.

    Source: Jung, Chai and Wang, ICLR 2026 (ALA), after the captioning of SFID (NeurIPS 2024).
    """
    return GENDERED.sub(lambda found: NEUTRAL[found[0].lower()], text)


def largest(scorer: Scorer, pairs: Sequence[Pair]) -> tuple[list[float | None], list[float | None]]:
    """Scores as they are, and by the Max- rule: max(score, score against neutral references).

    References that the rule leaves as they are, are not scored twice.
    """
    plain = scorer.scores(pairs)
    changed = [i for i, pair in enumerate(pairs) if pair.neutral() != pair]
    most = list(plain)
    again = scorer.scores([pairs[i].neutral() for i in changed])
    for i, score in zip(changed, again, strict=True):
        known = [value for value in (plain[i], score) if value is not None]
        most[i] = max(known, default=None)
    return plain, most
