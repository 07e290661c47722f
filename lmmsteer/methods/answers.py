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

    starts = range(0, len(requests), TOGETHER)

    def answered(at: int) -> dict[str, Tensor]:
        some = requests[starts[at] : starts[at] + TOGETHER]
        found = learning.answer(lmm, some, pictures, Edit(), max_new_tokens, temperature)
        said = [list(response.token_ids or ()) for response in found]
        return {
            "ids": torch.tensor([token for ids in said for token in ids], dtype=torch.int64),
            "lengths": torch.tensor([len(ids) for ids in said]),
        }

    def there(at: int) -> None:
        learning.say(f"answers: {min(starts[at] + TOGETHER, len(requests))} of {len(requests)}")

    found = learning.passes.each([f"{name}-{start}" for start in starts], answered, there)
    return [ids.tolist() for one in found for ids in one["ids"].split(one["lengths"].tolist())]
