"""What a model answers while a method learns, kept pass by pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from lmmsteer.engine.edit import Edit
from lmmsteer.methods.base import Learning
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request

TOGETHER = 256  # Answers of a pass: a card is busy with so many.


def token_ids(
    lmm: Lmm,
    learning: Learning,
    name: str,
    requests: Sequence[Request],
    pictures: Mapping[str, Image.Image],
    max_new_tokens: int,
    temperature: float = 0.0,
) -> list[list[int]]:
    """The unsteered answers' tokens, in the requests' order; none where there is no answer.

    name: of its passes.
    """

    def answered(some: Sequence[Request]) -> dict[str, Tensor]:
        found = learning.answer(lmm, some, pictures, Edit(), max_new_tokens, temperature)
        said = [list(response.token_ids or ()) for response in found]
        return {
            "ids": torch.tensor([token for ids in said for token in ids], dtype=torch.int64),
            "lengths": torch.tensor([len(ids) for ids in said]),
        }

    said: list[list[int]] = []
    for start in range(0, len(requests), TOGETHER):
        some = requests[start : start + TOGETHER]
        found = learning.passes.once(f"{name}-{start}", lambda some=some: answered(some))
        said += [ids.tolist() for ids in found["ids"].split(found["lengths"].tolist())]
        learning.say(f"answers: {len(said)} of {len(requests)}")
    return said
