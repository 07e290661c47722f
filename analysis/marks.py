"""Counted words in an answer: as pieces of text for a script, and as escaped HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from analysis.words import END, WORD_RE, Targets

Piece = str | tuple[str, list[int]]


class Marks:
    """Finds what counts as a mention of each attribute. targets: in the page's order."""

    def __init__(self, targets: Mapping[str, Targets]) -> None:
        self.names = [name.replace("_", " ") for name in targets]
        self._of: dict[str, list[tuple[int, Targets]]] = {}  # by the first word of a bigram
        for place, found in enumerate(targets.values()):
            for word in found.words | {pair.partition(" ")[0] for pair in found.pairs}:
                self._of.setdefault(word, []).append((place, found))

    def pieces(self, text: str) -> list[Piece]:
        """The text in order: what is not counted, and counted words with attributes' places."""
        words = list(WORD_RE.finditer(text))
        said: list[Piece] = []
        end = 0
        for place, word in enumerate(words):
            first = _plain(word.group())
            if first not in self._of:
                continue
            second = _plain(words[place + 1].group()) if place + 1 < len(words) else END
            own = [number for number, found in self._of[first] if found.counts(first, second)]
            if own:
                if text[end : word.start()]:
                    said.append(text[end : word.start()])
                said.append((word.group(), own))
                end = word.end()
        return [*said, text[end:]] if text[end:] else said

    def html(self, text: str) -> Markup:
        """The text, escaped, with every counted word in a <mark> that names its attributes."""
        return Markup().join(
            escape(piece) if isinstance(piece, str) else self._mark(*piece)
            for piece in self.pieces(text)
        )

    def _mark(self, word: str, own: Sequence[int]) -> Markup:
        classes = " ".join(f"a{place}" for place in own)
        title = ", ".join(self.names[place] for place in own)
        return Markup('<mark class="{}" title="{}">{}</mark>').format(classes, title, word)


def _plain(word: str) -> str:
    return word.lower().replace("’", "'")
