"""python -m tests.analysis.vader N: so many texts, each with equal scores; then how fast they are.

Texts: sentences of installed packages' documentation, cut to many lengths; words of the lexicon and
of every rule in any order, with capitals, punctuation and emoji. Contenders take turns.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from vaderSentiment import vaderSentiment

from analysis.vader import Vader

NAMES = ("neg", "neu", "pos", "compound")
ROUNDS = 7
RULES = "least at very never so this without doubt no or nor but kind of sort of"
PLAIN = "the a in house runs 12 is of and"


def prose() -> list[str]:
    """Words of the docstrings and comments of installed packages, in their order."""
    words: list[str] = []
    for path in sorted(Path(vaderSentiment.__file__).parents[1].glob("*/*.py"))[:1500]:
        text = path.read_text(errors="replace")
        words += [word for block in text.split('"""')[1::2] for word in block.split()]
    return words


def fuzz_words(reference: vaderSentiment.SentimentIntensityAnalyzer) -> list[str]:
    rules = [*vaderSentiment.NEGATE, *vaderSentiment.BOOSTER_DICT, *vaderSentiment.SPECIAL_CASES]
    rules += RULES.split() * 6
    words = [*random.Random(0).sample(sorted(reference.lexicon), 800), *rules * 3]
    return [*words, *PLAIN.split() * 20, *list(reference.emojis)[:400]]


def texts(count: int, seed: int = 0) -> Iterator[str]:
    chance = random.Random(seed)
    reference = vaderSentiment.SentimentIntensityAnalyzer()
    real, made = prose(), fuzz_words(reference)
    marks = ("", "", "", "", ".", ",", "!", "?", "!!!", "??", ";", ")", "...", "\n", "\u00a0", "\t")
    for number in range(count):
        length = chance.choice((0, 1, 2, 3, 4, 5, 8, 15, 30, 60, 120))
        if number % 2:
            start = chance.randrange(len(real))
            yield " ".join(real[start : start + length])
            continue
        turned = (str, str, str, str.upper, str.title)
        words = [chance.choice(turned)(chance.choice(made)) for _ in range(length)]
        joined = chance.choice((" ", " ", " ", "  ", ""))
        yield joined.join(word + chance.choice(marks) for word in words)


def compare(count: int, seed: int = 0) -> int:
    """How many texts have other scores than the library's; the first of them are printed."""
    scorer, reference, wrong = Vader(), vaderSentiment.SentimentIntensityAnalyzer(), 0
    for text in texts(count, seed):
        expected = reference.polarity_scores(text)
        found = scorer.scores(text)
        if [getattr(found, name) for name in NAMES] != [expected[name] for name in NAMES]:
            wrong += 1
            if wrong <= 3:
                print(repr(text), found, expected)
    return wrong


def speed(words: int, count: int) -> str:
    real, chance = prose(), random.Random(1)
    starts = [chance.randrange(len(real) - words) for _ in range(count)]
    some = [" ".join(real[start : start + words]) for start in starts]
    scorer, reference = Vader(), vaderSentiment.SentimentIntensityAnalyzer()
    times: dict[str, list[float]] = {"ours": [], "library": []}
    for number in range(ROUNDS):
        for name, score in (("ours", scorer.scores), ("library", reference.polarity_scores)):
            start = time.process_time()
            for text in some:
                score(text)
            if number:  # The first round only warms up.
                times[name].append(count / (time.process_time() - start))
    ours, theirs = (statistics.median(times[name]) for name in ("ours", "library"))
    return f"{words} words: {ours:,.0f} texts/s, library {theirs:,.0f}, {ours / theirs:.1f}x"


if __name__ == "__main__":
    asked = int(sys.argv[1])
    differing = compare(asked)
    print(f"{asked:,} texts, {differing} with other scores")
    for length, of in ((30, 1500), (120, 400), (300, 150)):
        print(speed(length, of))
    raise SystemExit(bool(differing))
