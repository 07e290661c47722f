"""Several attributes adjusted at once, all on the logits as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmmsteer.engine.edit.logits import Adjustment, Draw, Reader, likeliest


@dataclass(frozen=True)
class CrossAdjustment:
    """Adaptive logit adjustment of several attributes k: z' = z - sum_k lam_k (a_k - s_k) beta_k.

    A term counts where |beta_k of its token| >= tau_k, the likeliest of z or the one drawn from z,
    by gate_k; with magnitude it is lam_k (|a_k| - s_k) |beta_k|. One term is what `Adjustment` is.

    betas: [terms, vocab] float32. targets s: [requests, terms], or [1, terms] for all requests.
    readers, lams, taus, magnitudes, gates: one for each term. Memory: the readers', side by side.
    Source: Jung, Chai and Wang, ICLR 2026 (ALA), cross-attribute adjustment.
    """

    betas: Tensor
    targets: Tensor
    readers: tuple[Reader, ...]
    lams: tuple[float, ...]
    taus: tuple[float, ...]
    magnitudes: tuple[bool, ...]
    gates: tuple[str, ...]

    @classmethod
    def of(cls, terms: Sequence[Adjustment]) -> CrossAdjustment:
        """The terms as one rule; targets for all requests are repeated beside those by request."""
        requests = max(len(term.target) for term in terms)
        return cls(
            betas=torch.stack([term.beta for term in terms]),
            targets=torch.stack([term.target.expand(requests) for term in terms], 1),
            readers=tuple(term.reader for term in terms),
            lams=tuple(term.lam for term in terms),
            taus=tuple(term.tau for term in terms),
            magnitudes=tuple(term.magnitude for term in terms),
            gates=tuple(term.gate for term in terms),
        )

    @property
    def rows(self) -> Tensor | None:
        return self.targets if len(self.targets) > 1 else None

    def start(self, rows: int, device: torch.device) -> Tensor:
        return torch.cat([reader.start(rows, device) for reader in self.readers], 1)

    def advance(self, memory: Tensor, tokens: Tensor) -> Tensor:
        pairs = zip(self.readers, self._parts(memory), strict=True)
        return torch.cat([reader.advance(part, tokens) for reader, part in pairs], 1)

    def apply(
        self,
        logits: Tensor,
        memory: Tensor,
        of: Tensor | None,
        *,
        dense: bool,
        draw: Draw = likeliest,
    ) -> Tensor:
        betas = self.betas.to(logits.device)
        tokens = self._tokens(logits, draw)
        size = betas.gather(1, tokens).abs()  # [terms, rows]
        opened = torch.stack([of_term >= tau for of_term, tau in zip(size, self.taus, strict=True)])
        targets = self.targets.to(logits.device) if of is None else of
        targets = targets.expand(len(logits), len(self.readers))
        if dense:
            shift = self._shift(betas, opened, memory, tokens, targets, dense)
            return torch.where(opened.any(0)[:, None], logits - shift, logits)
        at = opened.any(0).nonzero().squeeze(-1)
        if not len(at):
            return logits
        shift = self._shift(betas, opened[:, at], memory[at], tokens[:, at], targets[at], dense)
        return logits.index_copy(0, at, logits[at] - shift)

    def _tokens(self, logits: Tensor, draw: Draw) -> Tensor:
        """The token that each term asks about. [terms, rows]"""
        draws: dict[str, Draw] = {"greedy": likeliest, "drawn": draw}
        found = {gate: draws[gate](logits) for gate in dict.fromkeys(self.gates)}
        return torch.stack([found[gate] for gate in self.gates])

    def _shift(
        self,
        betas: Tensor,
        opened: Tensor,
        memory: Tensor,
        tokens: Tensor,
        targets: Tensor,
        dense: bool,
    ) -> Tensor:
        """What is taken from the logits. [rows, vocab]"""
        shift = betas.new_zeros(len(targets), betas.shape[1])
        for at, (reader, part) in enumerate(zip(self.readers, self._parts(memory), strict=True)):
            read, beta = reader.score(part, tokens[at], dense=dense).float(), betas[at]
            if self.magnitudes[at]:
                read, beta = read.abs(), beta.abs()
            step = self.lams[at] * (read - targets[:, at])
            shift = shift + torch.where(opened[at], step, torch.zeros_like(step))[:, None] * beta
        return shift

    def _parts(self, memory: Tensor) -> tuple[Tensor, ...]:
        """Each reader's own part of the memory."""
        cpu = torch.device("cpu")
        return memory.split([reader.start(0, cpu).shape[1] for reader in self.readers], 1)
