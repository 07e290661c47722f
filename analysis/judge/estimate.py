"""Tokens and money before anything is asked: a rule of thumb, corrected by what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.judge.settings import JudgeKeys

CHARACTERS = 4.0  # of English in a token
MESSAGE = 4.0  # tokens around a turn
TILE, TILE_TOKENS, BASE_TOKENS = 512, 170, 85  # how OpenAI counts the tokens of a picture


@dataclass(frozen=True)
class Estimate:
    """Questions that are left, and their tokens; measured: how many answered ones the figures were
    corrected by (0: by none, a rule of thumb)."""

    questions: int
    input_tokens: float
    output_tokens: float
    measured: int = 0

    def lines(self, keys: JudgeKeys) -> list[str]:
        """What the plan shows."""
        basis = f"from {self.measured} answered" if self.measured else "a rule of thumb"
        tokens = f"{self.input_tokens:,.0f} input and {self.output_tokens:,.0f} output tokens"
        cost = price(self.input_tokens, self.output_tokens, keys)
        asked = "unknown: set analysis.judge.price_input and analysis.judge.price_output"
        return [
            f"{self.questions:,} questions to ask, about {tokens} ({basis})",
            f"price: {asked}" if cost is None else f"price: about {cost:,.2f}",
        ]


def text_tokens(text: str) -> float:
    return MESSAGE + len(text) / CHARACTERS


def picture_tokens(pixels: int) -> float:
    """At most: of a square picture."""
    return BASE_TOKENS + TILE_TOKENS * math.ceil(pixels / TILE) ** 2


def price(input_tokens: float, output_tokens: float, keys: JudgeKeys) -> float | None:
    """Money for tokens; None where a price is not known."""
    if keys.price_input is None or keys.price_output is None:
        return None
    return (input_tokens * keys.price_input + output_tokens * keys.price_output) / 1e6
