"""Answers that follow a grammar: tokens that cannot go on are masked, and the end is reached.

An automaton over bytes is run over every token of the vocabulary beforehand, from each of its
states, so that a decode step only looks its result up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmmsteer.engine.edit import Draw
from lmmsteer.engine.edit.logits import likeliest
from lmmsteer.engine.grammar import Automaton, edges
from lmmsteer.errors import LmmsteerError
from lmmsteer.models.lexicon import LOST, token_texts
from lmmsteer.models.lmm import Lmm

FAR = 1 << 30  # Tokens to the end from where there is none.


@dataclass(frozen=True)
class Constraint:
    """z' = z for tokens after which the answer can still be whole in time, else -inf.

    steps: [states, vocab] int64, the state behind each token, the last one where it cannot be said;
    far: [states] int64, tokens to the end, the one that ends the answer included. Memory of a row:
    its state, and the tokens that it may still say. tokens: in all.
    """

    steps: Tensor
    far: Tensor
    start_state: int
    tokens: int

    @property
    def rows(self) -> Tensor | None:
        return None

    def start(self, rows: int, device: torch.device) -> Tensor:
        return torch.tensor([[self.start_state, self.tokens]], device=device).repeat(rows, 1)

    def advance(self, memory: Tensor, tokens: Tensor) -> Tensor:
        state, left = memory.unbind(1)
        return torch.stack([self.steps.to(memory.device)[state, tokens], left - 1], 1)

    def apply(
        self,
        logits: Tensor,
        memory: Tensor,
        of: Tensor | None,
        *,
        dense: bool,
        draw: Draw = likeliest,
    ) -> Tensor:
        state, left = memory.unbind(1)
        steps, far = self.steps.to(logits.device), self.far.to(logits.device)
        needed = far[steps[state]]  # [rows, vocab]
        running = (state < len(steps) - 2) & (left > 0)  # What computes along may say anything.
        return logits.masked_fill((needed >= left[:, None]) & running[:, None], -torch.inf)


def constraint(lmm: Lmm, automaton: Automaton, tokens: int) -> Constraint:
    """The rule for a model's tokenizer. tokens: how many an answer may have, its end included.

    Raises: LmmsteerError where the tokenizer cannot write such an answer, or not in so few tokens.
    """
    frozen = tuple(edges(automaton)), len(automaton.moves), automaton.start, automaton.end
    made = _made(lmm.tokenizer, frozen, lmm.vocab_size, lmm.eos_ids)
    least = int(made.far[made.start_state])
    if least >= FAR:
        raise LmmsteerError(
            f"The tokenizer of {lmm.name} cannot write an answer of this form.",
            "Use a model whose tokenizer writes any text (most byte-level and SentencePiece ones).",
        )
    if least > tokens:
        raise LmmsteerError(
            f"An answer of this form takes {least} tokens of {lmm.name}, and {tokens} are allowed.",
            f"Allow {least} or more.",
        )
    return replace(made, tokens=tokens)


@lru_cache(maxsize=8)
def _made(
    tokenizer: Any,
    frozen: tuple[tuple[tuple[int, int, int], ...], int, int, int],
    vocab_size: int,
    eos_ids: tuple[int, ...],
) -> Constraint:
    """States of the automaton, then `ended` and `never`."""
    found, count, start, end = frozen
    ended, never = count, count + 1
    moves = np.full((count + 2, 256), never, dtype=np.int64)
    for state, byte, to in found:
        moves[state, byte] = to
    texts = token_texts(tokenizer, max(vocab_size, len(tokenizer)))[:vocab_size]
    steps = _steps(moves, [_bytes(text) for text in texts], never)
    special = [token for token in eos_ids if token < vocab_size]
    steps[:, special] = never
    steps[end, special] = ended
    return Constraint(torch.from_numpy(steps), torch.from_numpy(_far(steps, ended)), start, 0)


def _bytes(text: str) -> bytes:
    """What a token writes; nothing where that is not known for certain."""
    return b"" if LOST in text else text.encode("utf-8", "surrogateescape")


def _steps(moves: np.ndarray, texts: Sequence[bytes], never: int) -> np.ndarray:
    """[states, vocab]: where every token leads; one that writes nothing leads nowhere."""
    lengths = np.array([len(text) for text in texts])
    order = np.argsort(-lengths, kind="stable")
    width = int(lengths.max(initial=0))
    written = np.zeros((len(texts), width), dtype=np.uint8)
    for at, token in enumerate(order):
        written[at, : lengths[token]] = np.frombuffer(texts[token], dtype=np.uint8)
    states = np.repeat(np.arange(len(moves))[:, None], len(texts), 1)
    for place in range(width):
        longer = int((lengths > place).sum())  # The longest come first.
        states[:, :longer] = moves[states[:, :longer], written[None, :longer, place]]
    states[:, int((lengths > 0).sum()) :] = never
    steps = np.empty_like(states)
    steps[:, order] = states
    return steps


def _far(steps: np.ndarray, ended: int) -> np.ndarray:
    """Tokens from each state to the end."""
    far = np.full(len(steps), FAR, dtype=np.int64)
    far[ended] = 0
    while True:
        nearer = np.minimum(far, 1 + far[steps].min(1))
        nearer[ended] = 0
        nearer = np.minimum(nearer, FAR)
        if (nearer == far).all():
            return far
        far = nearer
