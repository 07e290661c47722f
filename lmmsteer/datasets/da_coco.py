"""DA-COCO: people in COCO's val2014 with skin tone and gender as annotators saw them.

Address: https://github.com/princetonvisualai/imagecaptioning-bias (Zhao, Wang and Russakovsky, ICCV
2021; arXiv 2106.08503): 15,762 pictures, 28,315 people. Licence: annotations on request, for
research; the pictures are COCO's, under their Flickr licences.
Example row of images_val2014.csv: id=262148, skin=[2, 3], ratio=0.21, bb_skin=Light,
bb_gender=Male, split=val
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmmsteer.datasets import coco, tables
from lmmsteer.datasets.base import Sample
from lmmsteer.errors import LmmsteerError

SOURCE = "DA-COCO: https://github.com/princetonvisualai/imagecaptioning-bias"
IMAGES, INSTANCES = "images_val2014.csv", "instances_val2014.csv"
NEEDED = ("id", "bb_skin", "bb_gender")
GENDERS, SKINS = {"male": "male", "female": "female"}, {"light": "light", "dark": "dark"}


@dataclass(frozen=True)
class DaCoco:
    """One sample for each picture whose largest person has a label.

    path: the folder of images_val2014.csv (and instances_val2014.csv, of which the number of people
    goes to `extra`). images: the folder of COCO's val2014 (null: found below `path`). Labels:
    gender (male, female) and skin_tone (light, dark) of the largest person, as published; Both and
    Unsure are no labels. unsure: pictures without either label are kept too.
    """

    name: str
    path: str
    images: str | None = None
    unsure: bool = False

    def samples(self) -> Iterator[Sample]:
        root = tables.folder(self.path, "DA-COCO", SOURCE)
        rows = tables.csv_rows(tables.one_of(root, [IMAGES], SOURCE), NEEDED, "id")
        people = _people(root)
        folder = coco.pictures(root, self.images)
        found = []
        for row in rows:
            labels = {
                "gender": GENDERS.get(row["bb_gender"].strip().lower()),
                "skin_tone": SKINS.get(row["bb_skin"].strip().lower()),
            }
            if self.unsure or any(labels.values()):
                number = _number(row["id"], root / IMAGES)
                extra = {"ratio": row.get("ratio"), "split": row.get("split")}
                extra["persons"] = str(people[number]) if number in people else None
                found.append(coco.sample(number, folder, labels, extra))
        coco.refuse_absent(found, folder)
        return iter(found)


def _people(root: Path) -> Counter[int]:
    """Annotated people by picture, where the second file is there."""
    if not (root / INSTANCES).exists():
        return Counter()
    rows = tables.csv_rows(root / INSTANCES, (), None)
    column = next((name for name in ("image_id", "id", "img_id") if name in rows[0]), None)
    numbers = (row[column] for row in rows) if column else ()
    return Counter(int(number) for number in numbers if number.isdigit())


def _number(text: str, file: Path) -> int:
    try:
        return int(float(text))
    except ValueError:
        raise LmmsteerError(
            f"{file} has the id {text!r}, which is no number of a COCO picture.",
            "Is it the file of this data set?",
        ) from None
