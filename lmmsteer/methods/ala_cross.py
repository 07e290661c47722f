"""Several attributes adjusted at once: ALA's cross-attribute case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmmsteer.engine.edit import Edit
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.ala import Ala, rule_of
from lmmsteer.methods.ala_pictures import PictureFeatures
from lmmsteer.methods.base import Context, Method
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request

MISSING = "???"


@dataclass(frozen=True)
class AlaCross(Method):
    """Adaptive logit adjustment of several attributes at once, all on the same logits.

    z' = z - sum_k lam_k (a_k - s_k) beta_k, each term where |beta_k of its token| >= tau_k.

    terms: each a mapping with parameters of `Ala` and, where it is not the cell's, `attribute` (a
    name or its keys). A term that is fitted has the artifact of method=ala and its attribute.
    Source: Jung, Chai and Wang, ICLR 2026 (ALA), cross-attribute adjustment.
    """

    name: str = "ala_cross"
    terms: Any = MISSING

    def __post_init__(self) -> None:
        if self.terms == MISSING:
            return
        if not isinstance(self.terms, (list, tuple)) or not self.terms:
            raise LmmsteerError("method.terms is not a list of terms.", _MEND)
        for at, term in enumerate(self.terms):
            if not isinstance(term, Mapping):
                raise LmmsteerError(f"method.terms[{at}] is no mapping of parameters.", _MEND)

    @property
    def members(self) -> Sequence[Any]:
        return () if self.terms == MISSING else [{"name": "ala", **term} for term in self.terms]

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        if not context.parts:
            raise LmmsteerError("method=ala_cross has no terms.", _MEND)
        seen = PictureFeatures(lmm, context.pictures, context.features)
        terms = []
        for at, (method, own) in enumerate(context.parts):
            if not isinstance(method, Ala):
                raise LmmsteerError(f"method.terms[{at}] is not of method=ala.", _MEND)
            terms += method.adjustments(lmm, requests, own.artifact, seen)
        return Edit(rules=(rule_of(terms),))


_MEND = "List them: 'method.terms=[{attribute: gender, target: 0.0}, {attribute: age}]'"
