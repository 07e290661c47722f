"""Counted words in an answer: as pieces of text for a script, and as escaped HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from analysis.words import END, WORD_RE, Targets

Piece = str | tuple[str, list[int]]


def pieces(text: str, targets: Mapping[str, Targets]) -> list[Piece]:
    """The text in order: what is not counted, and counted words with their attributes' places."""
    words = list(WORD_RE.finditer(text))
    plain = [word.group().lower().replace("’", "'") for word in words]
    said: list[Piece] = []
    end = 0
    for place, word in enumerate(words):
        second = plain[place + 1] if place + 1 < len(plain) else END
        own = [
            n for n, target in enumerate(targets.values()) if target.counts(plain[place], second)
        ]
        if own:
            if text[end : word.start()]:
                said.append(text[end : word.start()])
            said.append((word.group(), own))
            end = word.end()
    return [*said, text[end:]] if text[end:] else said


def mark(text: str, targets: Mapping[str, Targets]) -> Markup:
    """The text, escaped, with every counted word in a <mark> that names its attributes."""
    names = [name.replace("_", " ") for name in targets]
    html = (
        escape(piece) if isinstance(piece, str) else _mark(*piece, names)
        for piece in pieces(text, targets)
    )
    return Markup().join(html)


def _mark(word: str, own: Sequence[int], names: Sequence[str]) -> Markup:
    classes = " ".join(f"a{place}" for place in own)
    title = ", ".join(names[place] for place in own)
    return Markup('<mark class="{}" title="{}">{}</mark>').format(classes, title, word)
