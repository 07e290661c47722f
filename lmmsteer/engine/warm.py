"""Which rows stand for all shapes of a run, where each new shape is a graph to compile (Gaudi)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from PIL import Image

from lmmsteer.engine.edit import Edit
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request


def one_of_each_shape(
    lmm: Lmm,
    requests: Sequence[Request],
    pictures: Mapping[str, Image.Image],
    edit: Edit,
    shape: Callable[[Sequence[int]], Hashable],
) -> list[int]:
    """Indices of rows, longest input first: one for each shape that a picture and its input have.

    shape: of an input's token ids. Rows that a model refuses have none.
    """
    prompts = edit.prompts or tuple(request.prompt for request in requests)
    seen: dict[str, tuple[str, Hashable]] = {}
    known: set[Hashable] = set()
    found: dict[Hashable, tuple[int, int]] = {}
    for index, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
        if request.image_id not in seen:
            picture = lmm.prepare(pictures[request.image_id])
            shapes = tuple((n, tuple(t.shape)) for n, t in sorted(picture.features.items()))
            seen[request.image_id] = picture.shown, (shapes, picture.shown)
        shown, shapes = seen[request.image_id]
        if (shapes, prompt) in known or lmm.refusal(prompt):
            continue
        ids = lmm.token_ids(prompt, shown)
        known.add((shapes, prompt))
        key = shapes, shape(ids)
        found[key] = max(found.get(key, (0, 0)), (len(ids), -index))
    return [-index for _, index in sorted(found.values(), reverse=True)]
