"""COCO captions: pictures of one gender, by what people wrote about them, with their references.

Address: https://cocodataset.org/#download (Chen et al. 2015, arXiv 1504.00325):
annotations/captions_val2014.json and val2014.zip. Licence: captions CC BY 4.0; the pictures are
under their Flickr licences.
Example of captions_val2014.json: {"images": [{"id": 203564, "file_name":
"COCO_val2014_000000203564.jpg"}], "annotations": [{"image_id": 203564, "caption": "A man riding a
bicycle."}]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmmsteer.datasets import coco, tables
from lmmsteer.datasets.base import Sample
from lmmsteer.errors import LmmsteerError

FILES = ("annotations/captions_val2014.json", "captions_val2014.json")
_MALE = (
    "man men male males boy boys guy guys gentleman gentlemen father fathers son sons husband"
    " he him his himself"
)
_FEMALE = (
    "woman women female females girl girls lady ladies mother mothers daughter daughters wife"
    " she her hers herself"
)
MALE, FEMALE = frozenset(_MALE.split()), frozenset(_FEMALE.split())
WORD = re.compile(r"[a-z]+")
GENDERS = ("one", "all")


@dataclass(frozen=True)
class CocoCaptions:
    """One sample for each captioned picture, in the order of the file's `images`.

    path: the folder with annotations/captions_val2014.json. images: the folder of val2014 (null:
    found below `path`). gender: `one` keeps the pictures whose captions name one gender alone: in
    at least one caption words of it, and in none words of the other (the rule of Zhao et al. 2017
    and of the papers after it; the subset that SFID and ALA use, 10,780 pictures, is published as a
    pickle, which is never loaded); `all` keeps every picture. Label: gender (male, female). The
    captions lie in `extra` as `captions`, a JSON list, for analysis=captions.
    """

    name: str
    path: str
    images: str | None = None
    gender: str = "one"

    def samples(self) -> Iterator[Sample]:
        if self.gender not in GENDERS:
            raise tables.unknown("gender", self.gender, GENDERS)
        root = tables.folder(self.path, "COCO's captions", coco.SOURCE)
        file = tables.one_of(root, FILES, coco.SOURCE)
        folder = coco.pictures(root, self.images)
        found = []
        for number, captions in _captions(file).items():
            gender = gender_of(captions)
            if captions and (gender or self.gender == "all"):
                extra = {"captions": json.dumps(captions, ensure_ascii=False)}
                found.append(coco.sample(number, folder, {"gender": gender}, dict(extra)))
        coco.refuse_absent(found, folder)
        return iter(found)


def gender_of(captions: list[str]) -> str | None:
    """male or female where the captions name one gender alone."""
    words = {word for caption in captions for word in WORD.findall(caption.lower())}
    male, female = bool(words & MALE), bool(words & FEMALE)
    return None if male == female else "male" if male else "female"


def _captions(file: Path) -> dict[int, list[str]]:
    content: Any = tables.json_file(file)
    try:
        found: dict[int, list[str]] = {int(image["id"]): [] for image in content["images"]}
        for note in content["annotations"]:
            found[int(note["image_id"])].append(str(note["caption"]).strip())
    except (KeyError, TypeError, ValueError) as error:
        raise LmmsteerError(
            f"{file} is not in the layout of COCO's captions: {type(error).__name__} {error}.",
            "It has images (id) and annotations (image_id of one of them, caption).",
        ) from error
    return found
