"""The drawn people of the demo: counterfactual sets, alike but for the attributes.

Address: lmmsteer/demo/people.py draws them, `lmmsteer demo-data` writes them. Licence: Apache-2.0.
Example row: image_id=eval-0000-03, group_id=eval-0000, gender=woman, age=old, body_type=slim,
skin_tone=dark, occupation=nurse, background=hospital
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lmmsteer.datasets.base import Sample, picture_of_bytes
from lmmsteer.datasets.folder import Folder
from lmmsteer.demo import people


@dataclass(frozen=True)
class Demo:
    """`images` drawn people of a split; `path` reads a folder that demo-data wrote instead."""

    name: str
    path: str | None = None
    images: int = 120
    seed: int = 0
    split: str = "eval"

    def samples(self) -> Iterator[Sample]:
        if self.path is not None:
            return Folder(self.name, self.path).samples()
        drawn = people.counterfactual_sets(self.images, self.seed, self.split)
        return (_sample(person) for person in drawn)


def _sample(person: people.Person) -> Sample:
    return Sample(
        image_id=person.image_id,
        read=lambda: picture_of_bytes(person.image_id, people.png(person)),
        group_id=person.group_id,
        labels={
            "gender": person.gender,
            "age": person.age,
            "body_type": person.body_type,
            "skin_tone": person.skin_tone,
            "occupation": person.occupation,
        },
        extra={"background": person.background, "split": self_split(person)},
    )


def self_split(person: people.Person) -> str:
    return person.group_id.partition("-")[0]
