"""What a model would say first: the probabilities of the next token behind each row's prompt.

An engine's own run of one token, with a rule behind the edit's that looks and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from lmmsteer.engine.edit import Draw, Edit
from lmmsteer.engine.edit.logits import Forgetful, likeliest
from lmmsteer.engine.sampling import Sampling, nonfinite
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request

if TYPE_CHECKING:
    from lmmsteer.engine.reference import Reference
    from lmmsteer.engine.shared import Shared


class Sums:
    """Probabilities summed by what rows belong to. sums: [of, vocab]; rows: [of], added so far."""

    def __init__(self, count: int, vocab_size: int) -> None:
        self.sums = torch.zeros(count, vocab_size)
        self.rows = torch.zeros(count, dtype=torch.long)

    def __eq__(self, other: object) -> bool:
        """All are alike to an engine, which keeps what it has prepared by its rules' structure."""
        return isinstance(other, Sums)

    def __hash__(self) -> int:
        return hash(Sums)

    def add(self, logits: Tensor, of: Tensor) -> None:
        """Rows whose logits are not finite are left out. logits: [rows, vocab]; of: [rows]."""
        fine = ~nonfinite(logits)
        found = torch.softmax(logits[fine].float(), -1).cpu()
        of = of[fine].cpu()
        self.sums.index_add_(0, of, found)
        self.rows.index_add_(0, of, torch.ones_like(of))


@dataclass(frozen=True)
class Watch(Forgetful):
    """A rule that leaves the logits as they are and adds their softmax to `sums`.

    of: [requests] int64, where in `sums` each row belongs.
    """

    of: Tensor
    sums: Sums

    @property
    def rows(self) -> Tensor | None:
        return self.of

    def apply(
        self,
        logits: Tensor,
        memory: Tensor,
        of: Tensor | None,
        *,
        dense: bool,
        draw: Draw = likeliest,
    ) -> Tensor:
        assert of is not None
        self.sums.add(logits, of)
        return logits


def watch(
    engine: Shared | Reference,
    lmm: Lmm,
    requests: Sequence[Request],
    pictures: Mapping[str, Image.Image],
    edit: Edit,
    sampling: Sampling,
    of: Sequence[int],
    sums: Sums,
) -> None:
    """Add to `sums` the probabilities of every row's first token, as the edit leaves them.

    p = softmax(z), z the logits behind contrast and rules, before temperature, top-k and top-p.
    of: where in `sums` each request belongs. sampling: for rules that ask for a row's own draw.
    """
    rules = (*edit.rules, Watch(torch.tensor(of), sums))
    one = replace(sampling, max_new_tokens=1)
    for _ in engine.generate(lmm, requests, pictures, replace(edit, rules=rules), one):
        pass
