"""Forbidding words: the plainest way to have a model not say something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lmmsteer.engine.edit import Bias, Edit, Phrases, Rule
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.base import Context, Method
from lmmsteer.methods.words import sequences, whole_spellings
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request


@dataclass(frozen=True)
class Blocklist(Method):
    """Lowers the logits of words: z'_t = z_t - penalty.

    t: every single token that spells one of the words whole, in any case, with a space before or
    not; of longer spellings, and of phrases, the last token where the others were just said (as
    written, in lower case, capitalised, in capitals; with a space before or not).
    words: null is the attribute's. penalty: inf forbids, 0 changes nothing.
    """

    name: str = "blocklist"
    words: list[str] | None = None
    penalty: float = float("inf")

    needs_attribute: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.penalty >= 0:
            raise LmmsteerError(
                f"method.penalty={self.penalty} is no penalty.",
                "Set method.penalty to 0 or more (inf forbids)",
            )

    @property
    def attribute_given(self) -> bool:
        return self.words is not None

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        given = context.attribute.words if context.attribute else ()
        words = list(self.words) if self.words is not None else list(given)
        if self.penalty == 0 or (self.words is not None and not words):
            return Edit()
        single = whole_spellings(lmm.tokenizer, words)
        several = sequences(lmm.tokenizer, words)
        if not single and not several:
            raise LmmsteerError(
                "method=blocklist has no words to forbid.", "Give method.words=[...] or attribute="
            )
        bias = torch.zeros(lmm.vocab_size)
        bias[single] = -self.penalty
        rules: list[Rule] = [Bias(bias)]
        if several:
            width = max(map(len, several))
            padded = [[-1] * (width - len(ids)) + list(ids) for ids in several]
            rules.append(Phrases(torch.tensor(padded), self.penalty))
        return Edit(rules=tuple(rules))
