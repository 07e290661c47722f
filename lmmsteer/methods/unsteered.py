"""The model as it is: what every method is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmmsteer.engine.edit import Edit
from lmmsteer.methods.base import Context, Method
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request


@dataclass(frozen=True)
class Unsteered(Method):
    """Changes nothing."""

    name: str = "unsteered"

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        return Edit()
