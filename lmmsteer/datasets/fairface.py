"""FairFace: faces with race, gender and age as annotators saw them.

Address: https://github.com/joojs/fairface (Karkkainen and Joo, WACV 2021; arXiv 1908.04913): 86,744
pictures to train with and 10,954 to validate. Licence: CC BY 4.0.
Example row of fairface_label_val.csv: file=val/1.jpg, age=3-9, gender=Male, race=East Asian,
service_test=False
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from lmmsteer.datasets import tables
from lmmsteer.datasets.base import Sample, read_named

SOURCE = "FairFace: https://github.com/joojs/fairface"
SPLITS = ("train", "val")
NEEDED = ("file", "age", "gender", "race")
YOUNG, OLD = ("0-2", "3-9", "10-19", "20-29"), ("50-59", "60-69", "more than 70")


@dataclass(frozen=True)
class FairFace:
    """One sample for each row of fairface_label_SPLIT.csv, beside the folders train and val.

    Labels: gender (male, female), race (seven, as published), age (young to 29 years, old from 50,
    middle between; the published bin is in `extra` as age_bin).
    """

    name: str
    path: str
    split: str = "val"

    def samples(self) -> Iterator[Sample]:
        if self.split not in SPLITS:
            raise tables.unknown("split", self.split, SPLITS)
        root = tables.folder(self.path, "FairFace", SOURCE)
        file = tables.one_of(root, [f"fairface_label_{self.split}.csv"], SOURCE)
        for row in tables.csv_rows(file, NEEDED, "file"):
            name = row["file"]
            labels = {"gender": row["gender"].lower(), "race": row["race"], "age": _age(row["age"])}
            extra = {"age_bin": row["age"], "service_test": row.get("service_test", "")}
            yield Sample(
                image_id=name,
                read=partial(read_named, name, root, name),
                labels={key: value for key, value in labels.items() if value},
                extra={key: value for key, value in extra.items() if value},
            )


def _age(published: str) -> str:
    if not published:
        return ""
    return "young" if published in YOUNG else "old" if published in OLD else "middle"
