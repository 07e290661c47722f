"""What is changed in the logits, as data: contrast streams first, then rules in their order.

A rule may remember what a row has said: a row of integers for each row of the batch, which the
engine keeps and moves with the row. Rows do not see each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Contrast:
    """Streams of every row that do not see the picture; what they would say is held against it.

    z' = (1 + alpha) z - alpha z_c for tokens with z >= max z + log(beta), -inf for the others; z_c:
    the mean of the streams' logits, behind the same tokens. On raw logits, before any rule.

    streams: `removed` (the picture's tokens are left out), `unknown` (they are the unknown token),
    `noise` (the picture's pixels are Gaussian noise). beta 0 leaves every token in.
    Source: Zhang et al. 2024 (arXiv 2403.05262).
    """

    alpha: float = 1.0
    beta: float = 0.1
    streams: tuple[str, ...] = ("removed",)

    def mix(self, logits: Tensor, others: Tensor) -> Tensor:
        """logits: [rows, vocab] float32; others: [streams, rows, vocab]."""
        mixed = (1 + self.alpha) * logits - self.alpha * others.mean(0)
        if self.beta == 0:
            return mixed
        floor = logits.amax(-1, keepdim=True) + math.log(self.beta)
        return mixed.masked_fill(logits < floor, -torch.inf)


class Draw(Protocol):
    """The token that each row's own sampling takes from logits. [rows, vocab] -> [rows]"""

    def __call__(self, logits: Tensor, /) -> Tensor: ...


def likeliest(logits: Tensor) -> Tensor:
    """The draw of greedy answers."""
    return logits.argmax(-1)


GATES = ("greedy", "drawn")


class Rule(Protocol):
    """A change of the logits before temperature, top-k and top-p; float32 in, float32 out.

    A frozen dataclass of numbers and tensors (nested ones too), so that an engine can keep it on
    the device and load other values of the same shapes into it.
    """

    @property
    def rows(self) -> Tensor | None:
        """[requests] or [requests, n], in the requests' order: what `apply` wants as `of`."""
        ...

    def start(self, rows: int, device: torch.device) -> Tensor:
        """What it remembers of rows that have said nothing. [rows, n] int64."""
        ...

    def advance(self, memory: Tensor, tokens: Tensor) -> Tensor:
        """The memory after one more token each. memory: [rows, n]; tokens: [rows]."""
        ...

    def apply(
        self,
        logits: Tensor,
        memory: Tensor,
        of: Tensor | None,
        *,
        dense: bool,
        draw: Draw = likeliest,
    ) -> Tensor:
        """logits: [rows, vocab]; of: [rows]. dense: compute every row, whether it needs it or not,
        so that shapes do not hang on values. draw: of these rows at this step."""
        ...


class Forgetful:
    """A rule that looks at the logits alone."""

    @property
    def rows(self) -> Tensor | None:
        return None

    def start(self, rows: int, device: torch.device) -> Tensor:
        return torch.zeros(rows, 0, dtype=torch.long, device=device)

    def advance(self, memory: Tensor, tokens: Tensor) -> Tensor:
        return memory


@dataclass(frozen=True)
class Bias(Forgetful):
    """z' = z + bias; -inf forbids a token. bias: [vocab] float32."""

    bias: Tensor

    def apply(
        self,
        logits: Tensor,
        memory: Tensor,
        of: Tensor | None,
        *,
        dense: bool,
        draw: Draw = likeliest,
    ) -> Tensor:
        return logits + self.bias.to(logits.device)


@dataclass(frozen=True)
class Phrases:
    """Sequences of tokens of which the last is made less likely: z'_t = z_t - penalty.

    Where a row has just said all tokens of a sequence but its last one, t. ids: [phrases, n] int64,
    right-aligned, -1 where a shorter one has none; at least two tokens each. penalty: inf forbids.
    """

    ids: Tensor
    penalty: float

    @property
    def rows(self) -> Tensor | None:
        return None

    def start(self, rows: int, device: torch.device) -> Tensor:
        return torch.full((rows, self.ids.shape[1] - 1), -2, dtype=torch.long, device=device)

    def advance(self, memory: Tensor, tokens: Tensor) -> Tensor:
        return torch.cat([memory[:, 1:], tokens.unsqueeze(1)], 1)

    def apply(
        self,
        logits: Tensor,
        memory: Tensor,
        of: Tensor | None,
        *,
        dense: bool,
        draw: Draw = likeliest,
    ) -> Tensor:
        ids = self.ids.to(logits.device)
        head, last = ids[:, :-1], ids[:, -1]
        said = ((head == memory[:, None]) | (head < 0)).all(-1)  # [rows, phrases]
        if not dense and not said.any():
            return logits
        cost = said * self.penalty if math.isfinite(self.penalty) else said.float()
        cost = cost.masked_fill(said, self.penalty)
        whole = torch.zeros_like(logits)
        return logits - whole.scatter_reduce(1, last.expand(said.shape), cost, "amax")


class Reader(Protocol):
    """What a row's answer says of an attribute: f_text in [-1, 1].

    A frozen dataclass of tensors, as rules are; memory as theirs.
    """

    def start(self, rows: int, device: torch.device) -> Tensor: ...

    def advance(self, memory: Tensor, tokens: Tensor) -> Tensor: ...

    def score(self, memory: Tensor, tokens: Tensor, *, dense: bool = True) -> Tensor:
        """f_text(what was said so far, then one candidate token). tokens: [rows] -> [rows].

        dense: shapes do not hang on values.
        """
        ...


@dataclass(frozen=True)
class Adjustment:
    """Adaptive logit adjustment: bias-related tokens are shifted towards a target.

    Where |beta of the token t| >= tau: z' = z - lam (a - s) beta, a = f_text(said, then t).
    With magnitude: z' = z - lam (|a| - s) |beta|, which pushes every related token one way.
    t, by gate: `greedy`, the likeliest token; `drawn`, the one that the row's own sampling would
    take from z. They are the same for greedy answers, the only ones that the paper speaks of.

    beta: [vocab] float32 in [-1, 1]. target s: [requests], or [1] for all. reader: f_text.
    Source: Jung, Chai and Wang, ICLR 2026 (ALA); the magnitudes are its public code's ALA-N.
    """

    beta: Tensor
    target: Tensor
    reader: Reader
    lam: float = 2.0
    tau: float = 0.1
    magnitude: bool = False
    gate: str = "greedy"

    @property
    def rows(self) -> Tensor | None:
        return self.target if len(self.target) > 1 else None

    def start(self, rows: int, device: torch.device) -> Tensor:
        return self.reader.start(rows, device)

    def advance(self, memory: Tensor, tokens: Tensor) -> Tensor:
        return self.reader.advance(memory, tokens)

    def apply(
        self,
        logits: Tensor,
        memory: Tensor,
        of: Tensor | None,
        *,
        dense: bool,
        draw: Draw = likeliest,
    ) -> Tensor:
        beta = self.beta.to(logits.device)
        token = (draw if self.gate == "drawn" else likeliest)(logits)
        gate = beta[token].abs() >= self.tau
        target = self.target.to(logits.device) if of is None else of
        target = target.expand(token.shape)
        if dense:
            found = self._step(memory, token, target, dense)
            return torch.where(gate[:, None], logits - found[:, None] * self._weights(beta), logits)
        at = gate.nonzero().squeeze(-1)
        if not len(at):
            return logits
        found = self._step(memory[at], token[at], target[at], dense)
        changed = logits[at] - found[:, None] * self._weights(beta)
        return logits.index_copy(0, at, changed)

    def _step(self, memory: Tensor, token: Tensor, target: Tensor, dense: bool) -> Tensor:
        read = self.reader.score(memory, token, dense=dense).float()
        return self.lam * ((read.abs() if self.magnitude else read) - target)

    def _weights(self, beta: Tensor) -> Tensor:
        return beta.abs() if self.magnitude else beta
