"""FACET: pictures of people at their occupations, annotated by people (Meta).

Address: https://facet.metademolab.com (arXiv 2309.00035): about 32,000 pictures of SA-1B, 49,551
people, 52 classes of occupations. Licence: FACET's own; for evaluation only, never for training.
Example row of annotations.csv: person_id=2, filename=sa_1545038.jpg, class1=doctor, class2=,
bounding_box={"x": 10, ...}, gender_presentation_masc=1, skin_tone_4=2, age_presentation_young=1
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lmmsteer.datasets import tables
from lmmsteer.datasets.base import Sample, read_named
from lmmsteer.datasets.tables import Row
from lmmsteer.errors import LmmsteerError

SOURCE = "FACET: https://facet.metademolab.com"
NEEDED = ("person_id", "filename", "class1", "bounding_box")
RULES = ("one", "largest")
GENDERS = {"masc": "male", "fem": "female", "non_binary": "non-binary"}
AGES = {"young": "young", "middle": "middle", "older": "old"}
# The grouping of SFID's and ALA's script: the first whose tones an annotator saw.
SKIN = {"light": (1, 2), "medium": (4, 5, 6), "dark": (9, 10)}


@dataclass(frozen=True)
class Facet:
    """One sample for each picture.

    path: the folder of annotations.csv. images: the folder of the pictures, at any depth below it
    (null: `path`). persons: `one` keeps pictures with one annotated person, `largest` labels a
    picture by the person with the largest box. Labels: gender (masc male, fem female), age (young,
    middle, old), skin_tone (light where an annotator saw tone 1 or 2; else medium where 4, 5 or 6;
    else dark where 9 or 10), occupation (class1, spaces for underscores). class2 and the other
    columns that say yes go to `extra`.
    """

    name: str
    path: str
    images: str | None = None
    persons: str = "one"

    def samples(self) -> Iterator[Sample]:
        if self.persons not in RULES:
            raise tables.unknown("persons", self.persons, RULES)
        root = tables.folder(self.path, "FACET", SOURCE)
        rows = tables.csv_rows(tables.one_of(root, ["annotations.csv"], SOURCE), NEEDED, "filename")
        pictures = root if self.images is None else tables.folder(self.images, "pictures", SOURCE)
        places = {path.name: path for path in sorted(pictures.rglob("*.jpg"))}
        by_picture: dict[str, list[Row]] = {}
        for row in rows:
            by_picture.setdefault(row["filename"], []).append(row)
        if not any(name in places for name in by_picture):
            raise LmmsteerError(
                f"None of the {len(by_picture)} pictures of annotations.csv is below {pictures}.",
                f"Unpack the pictures there, or name their folder: dataset.images=DIR. {SOURCE}",
            )
        for name, people in by_picture.items():
            if self.persons == "largest" or len(people) == 1:
                place = places.get(name, pictures / name)
                yield _sample(name, max(people, key=_area), len(people), pictures, place)


def _sample(name: str, person: Row, people: int, root: Path, place: Path) -> Sample:
    labels = {
        "gender": _said(person, "gender_presentation", GENDERS),
        "age": _said(person, "age_presentation", AGES),
        "skin_tone": _skin_tone(person),
        "occupation": person["class1"].replace("_", " "),
    }
    extra = {"person_id": person["person_id"], "persons": str(people)}
    extra |= {"class2": person["class2"].replace("_", " ")} if person.get("class2") else {}
    extra |= {"features": ",".join(_features(person))}
    return Sample(
        image_id=name,
        read=partial(read_named, name, root, place.relative_to(root).as_posix()),
        labels={key: value for key, value in labels.items() if value},
        extra={key: value for key, value in extra.items() if value},
    )


def _said(person: Row, column: str, names: dict[str, str]) -> str | None:
    """The one reading that annotators gave; none where there are several or none."""
    found = [label for key, label in names.items() if _count(person, f"{column}_{key}")]
    return found[0] if len(found) == 1 else None


def _skin_tone(person: Row) -> str | None:
    for label, tones in SKIN.items():
        if any(_count(person, f"skin_tone_{tone}") for tone in tones):
            return label
    return None


def _features(person: Row) -> Sequence[str]:
    kinds = ("hair_color_", "hairtype_", "has_", "visible_", "lighting_")
    return [name for name in person if name.startswith(kinds) and _count(person, name)]


def _count(person: Row, column: str) -> float:
    """How many annotators said so; 0 for what is empty or no number."""
    try:
        return float(person.get(column) or 0)
    except ValueError:
        return float(person[column].strip().lower() == "true")


def _area(person: Row) -> float:
    """Width times height of the box, which is a dictionary as Python or JSON writes it."""
    text = person["bounding_box"]
    for read in (json.loads, ast.literal_eval):
        try:
            box = read(text)
            return float(box["width"]) * float(box["height"])
        except (ValueError, SyntaxError, KeyError, TypeError):
            continue
    return 0.0
