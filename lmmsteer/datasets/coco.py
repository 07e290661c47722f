"""Where COCO's pictures lie, for the data sets that label them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lmmsteer.datasets import tables
from lmmsteer.datasets.base import Sample, read_named
from lmmsteer.errors import LmmsteerError

SOURCE = "COCO 2014: https://cocodataset.org/#download (val2014.zip)"
SPLIT = "val2014"


def pictures(root: Path, images: str | None) -> Path:
    """The folder of the pictures: the one that is named, or val2014 below `root`, or `root`."""
    if images is not None:
        return tables.folder(images, "COCO's pictures", SOURCE)
    return next(
        (root / name for name in (SPLIT, f"images/{SPLIT}") if (root / name).is_dir()), root
    )


def sample(
    number: int, folder: Path, labels: dict[str, str | None], extra: dict[str, str | None]
) -> Sample:
    """The picture of COCO's val2014 with this number; what is None or empty is left out."""
    name = f"COCO_{SPLIT}_{number:012d}.jpg"
    return Sample(
        image_id=name,
        read=partial(read_named, name, folder, name),
        labels={key: value for key, value in labels.items() if value},
        extra={key: value for key, value in extra.items() if value},
    )


def refuse_absent(samples: list[Sample], folder: Path) -> None:
    """Raise where not one of the pictures is there: the folder is another, or not unpacked."""
    if not any((folder / found.image_id).exists() for found in samples):
        raise LmmsteerError(
            f"None of the {len(samples)} pictures is in {folder}.",
            f"Unpack them there, or name their folder: dataset.images=DIR. {SOURCE}",
        )
