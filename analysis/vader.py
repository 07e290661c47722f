"""VADER's rules over the lexicon and the constants of vaderSentiment, with its numbers to the bit.

The library lower-cases all words of a text again for every word with a valence, so its time grows
with the square of a text's length. Here a distinct token is looked up once for all texts, a rule
looks at the words it is about, and words without a valence cost nothing more.
Source: Hutto and Gilbert 2014; vaderSentiment 3.3.2, whose `polarity_scores` is the reference.
"""

from __future__ import annotations

import math
import re
import string
from operator import itemgetter
from typing import NamedTuple

from vaderSentiment import vaderSentiment

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
KEPT = 500_000  # Distinct tokens that are remembered.
NEGATIONS = frozenset(vaderSentiment.NEGATE)
PHRASES = vaderSentiment.SPECIAL_CASES
BOOSTERS = vaderSentiment.BOOSTER_DICT
FLIP, CAPITALS = vaderSentiment.N_SCALAR, vaderSentiment.C_INCR
DAMPED = (1.0, 0.95, 0.9)  # What a booster keeps of itself one, two and three words away.


class Token(NamedTuple):
    """A word as the rules see it. valence: None where the lexicon does not have it."""

    lower: str
    upper: bool
    valence: float | None
    boost: float | None
    negates: bool


LOWER, UPPER, VALENCE = (itemgetter(number) for number in range(3))


class Scores(NamedTuple):
    """What `polarity_scores` returns, in its roundings: shares in [0, 1], compound in [-1, 1]."""

    neg: float
    neu: float
    pos: float
    compound: float


class Vader:
    """A scorer that remembers the tokens it has seen."""

    def __init__(self) -> None:
        analyzer = vaderSentiment.SentimentIntensityAnalyzer()
        self.lexicon: dict[str, float] = analyzer.lexicon
        # The library looks at one character at a time: longer emoji are never found.
        self.emojis = {sign: words for sign, words in analyzer.emojis.items() if len(sign) == 1}
        self.tokens: dict[str, Token] = {}

    def scores(self, text: str) -> Scores:
        """The scores of a text; all zero where it has no words."""
        if not text.isascii() and not self.emojis.keys().isdisjoint(text):
            text = self._spelled(text)
        text = text.strip()
        words = self._words(text)
        if not words:
            return Scores(0.0, 0.0, 0.0, 0.0)
        places = [at for at, valence in enumerate(map(VALENCE, words)) if valence is not None]
        if not places:
            return _summed([], len(words), 0.0)
        shouted = 0 < sum(map(UPPER, words)) < len(words)
        found = [
            (at, valence)
            for at in places
            if words[at].boost is None
            and not (
                words[at].lower == "kind" and words[at + 1 : at + 2] and words[at + 1].lower == "of"
            )
            and (valence := self._valence(words, at, shouted))
        ]
        lower = list(map(LOWER, words))
        valences = (
            [v for _, v in found] if "but" not in lower else _around(found, lower.index("but"))
        )
        return _summed(valences, len(words), _emphasis(text))

    def mean_compound(self, text: str) -> float:
        """The mean of the sentences' compound scores: that of a long text nears -1 or 1 by itself.

        A sentence ends at . ! or ? before a space, and at the end of a line. 0 without words.
        """
        parts = [part for part in SENTENCE_END.split(text) if part.strip()]
        return sum(self.scores(part).compound for part in parts) / max(1, len(parts))

    def _spelled(self, text: str) -> str:
        """Emoji in words, apart from what is before them."""
        parts: list[str] = []
        space = True
        for sign in text:
            words = self.emojis.get(sign)
            if words is None:
                parts.append(sign)
                space = sign == " "
            else:
                parts.append(words if space else f" {words}")
                space = False
        return "".join(parts)

    def _words(self, text: str) -> list[Token]:
        known = self.tokens
        try:
            return [known[token] for token in text.split()]
        except KeyError:
            if len(known) > KEPT:
                known.clear()
            return [known.get(token) or self._learn(token) for token in text.split()]

    def _learn(self, token: str) -> Token:
        stripped = token.strip(string.punctuation)
        word = token if len(stripped) <= 2 else stripped  # It may be an emoticon.
        lower = word.lower()
        self.tokens[token] = found = Token(
            lower,
            word.isupper(),
            self.lexicon.get(lower),
            BOOSTERS.get(lower),
            lower in NEGATIONS or "n't" in lower,
        )
        return found

    def _valence(self, words: list[Token], at: int, shouted: bool) -> float:
        """What a word of the lexicon counts, by the words around it."""
        word = words[at]
        before = [words[at - back].lower if back <= at else "" for back in (1, 2, 3)]
        valence = plain = word.valence or 0.0
        if word.lower == "no" and at + 1 < len(words) and words[at + 1].valence is not None:
            valence = 0.0  # It negates what comes next, and says nothing by itself.
        if "no" in before and (
            "no" in before[:2] or (before[2] == "no" and before[0] in ("or", "nor"))
        ):
            valence = plain * FLIP
        if word.upper and shouted:
            valence = valence + CAPITALS if valence > 0 else valence - CAPITALS
        for back in range(1, min(at, 3) + 1):
            other = words[at - back]
            if other.valence is not None:
                continue
            if other.boost is not None:
                boost = _boost(other, valence, shouted)
                valence += boost * DAMPED[back - 1] if boost else boost
            valence = _negated(valence, back, before, other.negates)
            if back == 3:
                valence = _phrases(valence, words, at, before)
        least = before[0] == "least" and words[at - 1].valence is None
        return valence * FLIP if least and before[1] not in ("at", "very") else valence


def _boost(word: Token, valence: float, shouted: bool) -> float:
    boost = word.boost or 0.0
    if valence < 0:
        boost = -boost
    if word.upper and shouted:
        boost = boost + CAPITALS if valence > 0 else boost - CAPITALS
    return boost


def _negated(valence: float, back: int, before: list[str], negates: bool) -> float:
    """After the check of one word of the three before. before: from the nearest to the farthest."""
    if back == 2:
        if before[1] == "never" and before[0] in ("so", "this"):
            return valence * 1.25
        if before[1] == "without" and before[0] == "doubt":
            return valence
    elif back == 3:
        if (before[2] == "never" and before[1] in ("so", "this")) or before[0] in ("so", "this"):
            return valence * 1.25
        if before[2] == "without" and "doubt" in before[:2]:
            return valence
    return valence * FLIP if negates else valence


def _phrases(valence: float, words: list[Token], at: int, before: list[str]) -> float:
    """The library's idioms, and its boosters of two words. There are three words before."""
    one, two, three = before
    word = words[at].lower
    twoone, threetwo, threetwoone = f"{two} {one}", f"{three} {two}", f"{three} {two} {one}"
    for phrase in (f"{one} {word}", f"{twoone} {word}", twoone, threetwoone, threetwo):
        if phrase in PHRASES:
            valence = PHRASES[phrase]
            break
    if at + 1 < len(words):
        ahead = f"{word} {words[at + 1].lower}"
        valence = PHRASES.get(ahead, valence)
        if at + 2 < len(words):
            valence = PHRASES.get(f"{ahead} {words[at + 2].lower}", valence)
    for phrase in (threetwoone, threetwo, twoone):
        valence += BOOSTERS.get(phrase, 0.0)
    return valence


def _around(found: list[tuple[int, float]], but: int) -> list[float]:
    """Valences before the first "but" halved, and those behind it half as much again.

    As in the library, which looks each one up by its value: of equal ones the first is changed.
    """
    places = [at for at, _ in found]
    valences = [valence for _, valence in found]
    for number in range(len(valences)):
        first = valences.index(valences[number])
        if places[first] < but:
            valences[first] *= 0.5
        elif places[first] > but:
            valences[first] *= 1.5
    return valences


def _emphasis(text: str) -> float:
    questions = text.count("?")
    asked = 0 if questions <= 1 else questions * 0.18 if questions <= 3 else 0.96
    return min(text.count("!"), 4) * 0.292 + asked


def _summed(valences: list[float], words: int, emphasis: float) -> Scores:
    total = float(sum(valences))
    if total > 0:
        total += emphasis
    elif total < 0:
        total -= emphasis
    positive = negative = 0.0
    for valence in valences:
        if valence > 0:
            positive += valence + 1
        else:
            negative += valence - 1
    if positive > -negative:
        positive += emphasis
    elif positive < -negative:
        negative -= emphasis
    whole = positive - negative + (words - len(valences))
    compound = max(-1.0, min(1.0, total / math.sqrt(total * total + 15)))
    return Scores(
        round(abs(negative / whole), 3),
        round((words - len(valences)) / whole, 3),
        round(positive / whole, 3),
        round(compound, 4),
    )
