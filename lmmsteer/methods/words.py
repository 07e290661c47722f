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


def whole_spellings(tokenizer: Any, words: Iterable[str]) -> list[int]:
    """As `spellings`, without phrases: their first word is no mention."""
    return spellings(tokenizer, [word for word in words if len(word.split()) == 1])


def sequences(tokenizer: Any, words: Iterable[str]) -> list[tuple[int, ...]]:
    """Every spelling of a word or phrase that takes several tokens, as the tokenizer splits it.

    As written, in lower case, capitalised and in capitals; at the beginning of a text, and behind
    a space or an opening bracket in it.
    """
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        text = " ".join(word.split())
        for form in dict.fromkeys((text, text.lower(), text.capitalize(), text.upper())):
            for before in ("", "a ", "("):
                ids = _behind(tokenizer, before, form)
                if len(ids) > 1:
                    found[ids] = None
    return list(found)


def _behind(tokenizer: Any, before: str, text: str) -> tuple[int, ...]:
    """The tokens of a text behind another, where they do not melt with it."""
    anchor = tokenizer(before.rstrip(), add_special_tokens=False)["input_ids"] if before else []
    whole = tokenizer(before + text, add_special_tokens=False)["input_ids"]
    return tuple(whole[len(anchor) :]) if whole[: len(anchor)] == anchor else ()


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
