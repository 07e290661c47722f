"""Mitigation by words: a sentence before or after the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmmsteer.engine.edit import Edit
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.artifact import ModelFacts
from lmmsteer.methods.base import Context, Method
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request


@dataclass(frozen=True)
class Prompt(Method):
    """The prompt with a prefix and a suffix, joined by a space; empty ones are left out.

    Source: Howard et al. 2024 (arXiv 2405.20152), mitigation prompts.
    """

    name: str = "prompt"
    prefix: str = ""
    suffix: str = ""

    def suit(self, facts: ModelFacts) -> None:
        if not self.prefix and not self.suffix:
            raise LmmsteerError(
                f"method={self.name} has no words, so that it would change no prompt.",
                "Give method.prefix='...' or method.suffix='...', or use method=prompt_howard",
            )

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        return Edit(prompts=tuple(self._around(request.prompt) for request in requests))

    def _around(self, prompt: str) -> str:
        return " ".join(part for part in (self.prefix, prompt, self.suffix) if part)
