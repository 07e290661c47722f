"""The rows of a benchmark: pictures x prompts x seeds, and how long each answer is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from lmmsteer.engine.benchmark import trace
from lmmsteer.engine.benchmark.options import Options
from lmmsteer.engine.sampling import Sampling
from lmmsteer.errors import LmmsteerError, PictureError
from lmmsteer.models.pictures import decode
from lmmsteer.schema import Request, row_id

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class Workload:
    """Rows with their pictures and lengths; rows of a picture stand together.

    rows_per_picture: prompts x seeds. sampling: the same for every contender.
    """

    requests: tuple[Request, ...]
    pictures: dict[str, Image.Image]
    lengths: tuple[int, ...]
    rows_per_picture: int
    sampling: Sampling

    @property
    def tokens(self) -> int:
        """Useful tokens: what padding adds is not counted."""
        return sum(self.lengths)

    def only(self, rows: Sequence[int]) -> Workload:
        """These rows, in this order."""
        return replace(
            self,
            requests=tuple(self.requests[row] for row in rows),
            lengths=tuple(self.lengths[row] for row in rows),
        )

    def part(self, rows: int, longest: int, sampling: Sampling | None = None) -> Workload:
        """The first rows, their answers cut: for warm-up and for comparing answers."""
        return replace(
            self,
            requests=self.requests[:rows],
            lengths=tuple(min(n, longest) for n in self.lengths[:rows]),
            sampling=sampling or self.sampling,
        )


def workload(options: Options) -> Workload:
    """The workload that options describe; the same options give the same one.

    Raises: LmmsteerError for a folder without enough pictures.
    """
    pictures = _pictures(options)
    requests, prompts = [], []
    for image_id in pictures:
        for index, (prompt_id, text) in enumerate(options.prompts.items()):
            for seed in options.seeds:
                row = row_id(image_id, None, text, seed)
                requests.append(Request(row, image_id, prompt_id, text, seed))
                prompts.append(index)
    lengths = trace.lengths(options.lengths, prompts, options.seed)
    sampling = Sampling(options.temperature, options.top_k, options.top_p, max(lengths))
    per_picture = len(options.prompts) * len(options.seeds)
    return Workload(tuple(requests), pictures, tuple(lengths), per_picture, sampling)


def _pictures(options: Options) -> dict[str, Image.Image]:
    if options.folder is not None:
        return _from_folder(Path(options.folder), options.pictures)
    drawn, side = np.random.default_rng(options.seed), options.picture_size
    arrays = (drawn.integers(0, 256, (side, side, 3), np.uint8) for _ in range(options.pictures))
    return {f"noise-{at}": Image.fromarray(array) for at, array in enumerate(arrays)}


def _from_folder(folder: Path, count: int) -> dict[str, Image.Image]:
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)[:count]
    if len(files) < count:
        raise LmmsteerError(
            f"folder={folder} has {len(files)} pictures, and {count} are asked for.",
            f"Ask for fewer (pictures={max(1, len(files))}) or name another folder",
        )
    return {str(file.relative_to(folder)): _decoded(file) for file in files}


def _decoded(file: Path) -> Image.Image:
    try:
        return decode(file.read_bytes())
    except (OSError, PictureError) as error:
        raise LmmsteerError(
            f"{file} cannot be shown to a model: {error}.", "Take it out of the folder"
        ) from error


def batches(work: Workload, size: int, by: str) -> list[list[int]]:
    """Row indices in batches, as a careful user would group them.

    by=picture: rows as they come. by=prompt: all pictures' rows of one prompt together, since
    they are equally long before and about equally long after.
    """
    order: Sequence[int] = range(len(work.requests))
    if by == "prompt":
        order = sorted(order, key=lambda row: (len(work.requests[row].prompt), row))
    return [list(order[start : start + size]) for start in range(0, len(order), size)]
