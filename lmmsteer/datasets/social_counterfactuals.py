"""SocialCounterfactuals: generated people at occupations, in sets that differ in two attributes.

Address: https://huggingface.co/datasets/Intel/SocialCounterfactuals (Howard et al., CVPR 2024;
arXiv 2312.00825): 170,832 pictures in 13,824 sets, 61 Parquet files of 27 GB. Licence: MIT.
Example row: image={bytes: ...}, counterfactual_set=17, a1=White, a1_type=race, a2=male,
a2_type=gender, a1a2=White male, caption=A photo of a White male accountant
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lmmsteer.datasets import tables
from lmmsteer.datasets.base import Picture, Sample, read_named
from lmmsteer.datasets.hub import HubTable, Read, Row
from lmmsteer.errors import LmmsteerError

SOURCE = "SocialCounterfactuals: https://huggingface.co/datasets/Intel/SocialCounterfactuals"
NEEDED = ("counterfactual_set", "a1a2")
TYPED = ("a1", "a1_type", "a2", "a2_type")
PAIRS = ("physical_gender", "physical_race", "race_gender")
SPLITS = ("all", "fit", "eval")
AGES, BODIES, LOOKS = ("young", "old"), ("skinny", "obese"), ("tattooed",)
RACES = ("White", "Black", "Indian", "Asian", "Middle Eastern", "Latino")
GENDERS = ("male", "female")
LABELLED = ("gender", "race", "age", "body_type", "appearance")
TEMPLATE = re.compile(
    r"^\s*(?:(?:a photo|a picture|an image) of)?\s*(?:an?|the)?\s+", re.IGNORECASE
)


@dataclass(frozen=True)
class SocialCounterfactuals:
    """One sample for each picture, in the order of the files.

    path: the hub's Parquet files, or the raw folder of pictures with metadata.csv (file_name,
    caption, a1a2, counterfactual_set). pair: race_gender, physical_gender or physical_race alone.
    attribute: only pictures that have this label: gender, race, age (young, old), body_type
    (skinny, obese) or appearance (tattooed, in `extra`). split: `fit` has the share `fit_share` of
    the counterfactual sets, chosen by a hash of their names, and `eval` the others, so that no set
    is in both. group_id: pair and set. occupation: the caption without its template and attributes,
    in lower case, underscores and hyphens as spaces.
    """

    name: str
    path: str
    pair: str | None = None
    attribute: str | None = None
    split: str = "all"
    fit_share: float = 0.2

    def samples(self) -> Iterator[Sample]:
        if self.split not in SPLITS:
            raise tables.unknown("split", self.split, SPLITS)
        if self.pair is not None and self.pair not in PAIRS:
            raise tables.unknown("pair", self.pair, PAIRS)
        if self.attribute is not None and self.attribute not in LABELLED:
            raise tables.unknown("attribute", self.attribute, LABELLED)
        if not 0 < self.fit_share < 1:
            raise LmmsteerError(
                f"dataset.fit_share={self.fit_share} is no share.", "Give one between 0 and 1."
            )
        for row, read in self._rows():
            found = self._sample(row, read)
            if found is not None:
                yield found

    def _rows(self) -> Iterator[tuple[Row, Read]]:
        root = Path(self.path)
        if (root / "metadata.csv").exists():
            yield from _raw(root)
            return
        for row, read in HubTable(self.path, "image").rows():
            lacking = [name for name in NEEDED if name not in row]
            if lacking:
                raise LmmsteerError(
                    f"{row['row']} of {self.path} lacks the column {', '.join(lacking)}.",
                    f"Is it this data set? {SOURCE}",
                )
            yield row, read

    def _sample(self, row: Row, read: Read) -> Sample | None:
        typed = attributes(row)
        pair = pair_of(typed)
        labels = labels_of(typed)
        group = f"{pair}-{row['counterfactual_set']}"
        wanted = self.attribute is None or self.attribute in labels
        if not wanted or self.pair not in (None, pair) or not self._in_split(group):
            return None
        appearance = labels.pop("appearance", None)
        occupation = row.get("occupation") or row.get("subject") or occupation_of(row)
        own = row.get("image_id") or row.get("file_name") or row["row"]
        extra = {name: row[name] for name in ("caption", "a1a2") if name in row}
        return Sample(
            image_id=own,
            read=partial(read, own),
            group_id=group,
            labels={**labels, **({"occupation": spaced(occupation).lower()} if occupation else {})},
            extra={**extra, "pair": pair, **({"appearance": appearance} if appearance else {})},
        )

    def _in_split(self, group: str) -> bool:
        if self.split == "all":
            return True
        share = int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) / 2**32
        return (share < self.fit_share) == (self.split == "fit")


def attributes(row: Mapping[str, str]) -> dict[str, str]:
    """{type: value} of the two attributes: physical, race, gender.

    Where the release has no a1, a1_type, a2, a2_type they are read from a1a2 ("White male").
    """
    if all(name in row for name in TYPED):
        return {row["a1_type"]: row["a1"], row["a2_type"]: row["a2"]}
    words = spaced(row["a1a2"]).lower()
    found = {}
    for kind, values in (
        ("gender", GENDERS),
        ("race", RACES),
        ("physical", (*AGES, *BODIES, *LOOKS)),
    ):
        for value in values:
            if re.search(rf"\b{value.lower()}\b", words):
                found[kind] = value
    return found


def pair_of(typed: Mapping[str, str]) -> str:
    """race_gender, physical_gender or physical_race."""
    return "_".join(name for name in ("physical", "race", "gender") if name in typed)


def labels_of(typed: Mapping[str, str]) -> dict[str, str]:
    """Our labels of the two attributes; the physical ones are age, body type or appearance."""
    labels = {name: typed[name] for name in ("race", "gender") if name in typed}
    physical = typed.get("physical", "")
    for name, values in (("age", AGES), ("body_type", BODIES), ("appearance", LOOKS)):
        if physical in values:
            labels[name] = physical
    return labels


def occupation_of(row: Mapping[str, str]) -> str | None:
    """What is left of a caption without template, article and attributes; None where nothing is."""
    left = TEMPLATE.sub("", f" {row.get('caption', '')} ").strip(" .")
    both = row["a1a2"]
    for words in (both, both.replace("_", " "), *(row.get(name, "") for name in ("a1", "a2"))):
        if words and left.lower().startswith(words.lower()):
            left = left[len(words) :].strip()
    return left or None


def spaced(text: str) -> str:
    """real-estate_developer as real estate developer."""
    return " ".join(re.split(r"[\s_-]+", text.strip()))


def _raw(root: Path) -> Iterator[tuple[Row, Read]]:
    rows = tables.csv_rows(root / "metadata.csv", ("file_name", *NEEDED), "file_name")
    for row in rows:
        yield row, partial(_named, root, row["file_name"])


def _named(root: Path, name: str, image_id: str) -> Picture:
    return read_named(image_id, root, name)
