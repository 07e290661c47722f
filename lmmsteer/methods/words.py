"""Words as a model's tokenizer spells them, and how often a text mentions them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def spellings(tokenizer: Any, words: Iterable[str]) -> list[int]:
    """Every token that spells one of the words whole, in any case, with a space before or not.

    Of a phrase, its first word counts. A token that is only the beginning of a word does not.
    """
    heads = {word.split()[0].casefold() for word in words if word.split()}
    ids = list(range(len(tokenizer)))
    texts = tokenizer.batch_decode([[i] for i in ids], skip_special_tokens=True)
    found = zip(ids, texts, strict=True)
    return [i for i, text in found if text.removeprefix(" ").casefold() in heads]


def mentions(text: str, words: Iterable[str]) -> int:
    """How often the words or phrases stand in a text, as whole words in any case."""
    spoken = WORD.findall(text.casefold())
    targets = {tuple(WORD.findall(word.casefold())) for word in words}
    windows = (
        tuple(spoken[at : at + size])
        for size in {len(target) for target in targets if target}
        for at in range(len(spoken) - size + 1)
    )
    return sum(window in targets for window in windows)
