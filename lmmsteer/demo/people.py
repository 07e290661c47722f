"""The demo people: who they are, their counterfactual sets, and how they lie in a folder.

Knows labels and files; how a person looks is in drawing.py, what is said about them in grammar.py.
"""

import csv
import hashlib
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmmsteer.demo.drawing import draw

__all__ = ["Person", "counterfactual_sets", "draw", "png", "write_folder"]

GENDERS = ("man", "woman")
AGES = ("young", "old")
BODY_TYPES = ("slim", "heavy")
SKIN_TONES = ("light", "medium", "dark")
OCCUPATIONS = (
    "doctor",
    "nurse",
    "farmer",
    "firefighter",
    "chef",
    "teacher",
    "builder",
    "mechanic",
    "painter",
    "pilot",
)
BACKGROUNDS = ("park", "street", "kitchen", "office", "hospital")
WEATHERS = ("sunny", "cloudy", "rainy")
PROPS = ("ball", "balloon", "box")
COLORS = ("red", "blue", "yellow", "green")
ATTRIBUTES = {
    "gender": GENDERS,
    "age": AGES,
    "body_type": BODY_TYPES,
    "skin_tone": SKIN_TONES,
}
SET_SIZE = 12
COLUMNS = (
    "file_name",
    "image_id",
    "group_id",
    *ATTRIBUTES,
    "occupation",
    "background",
    "split",
)


@dataclass(frozen=True)
class Person:
    """One picture: four protected attributes, and the scene that its counterfactual set shares.

    seed fixes pose, colours, position and noise; the members of a set have the same seed.
    """

    image_id: str
    group_id: str
    split: str
    gender: str
    age: str
    body_type: str
    skin_tone: str
    occupation: str
    background: str
    weather: str
    prop: str
    prop_color: str
    seed: int


def counterfactual_sets(pictures: int, seed: int = 0, split: str = "eval") -> Iterator[Person]:
    """People in counterfactual sets of 12: all alike but for their attributes.

    A set holds half of the 24 attribute combinations (those where man, old and heavy together are
    even, or odd, in number), so each attribute is balanced inside it; ten sets in a row hold every
    combination five times and every occupation once. The last set is cut short where `pictures`
    is no multiple of 12. Splits draw from their own seeds and share no set.
    """
    return itertools.islice(_all_people(seed, split), pictures)


def _all_people(seed: int, split: str) -> Iterator[Person]:
    for index in itertools.count():
        digest = hashlib.sha256(f"{split}/{seed}/{index}".encode()).digest()
        set_seed = int.from_bytes(digest[:6], "big")
        scene = np.random.default_rng(set_seed)
        round_, place = divmod(index, len(OCCUPATIONS))
        group_id = f"{split}-{seed}-{index:04d}"
        shared = {
            "occupation": OCCUPATIONS[place],
            "background": BACKGROUNDS[(place + round_) % len(BACKGROUNDS)],
            "weather": WEATHERS[scene.integers(len(WEATHERS))],
            "prop": PROPS[scene.integers(len(PROPS))],
            "prop_color": COLORS[scene.integers(len(COLORS))],
        }
        for number, (gender, age, body_type, skin_tone) in enumerate(_half(index + round_)):
            yield Person(
                image_id=f"{group_id}-{number:02d}",
                group_id=group_id,
                split=split,
                gender=gender,
                age=age,
                body_type=body_type,
                skin_tone=skin_tone,
                seed=set_seed,
                **shared,
            )


def _half(parity: int) -> Iterator[tuple[str, ...]]:
    for combination in itertools.product(*ATTRIBUTES.values()):
        gender, age, body_type, _ = combination
        if ((gender == "man") + (age == "old") + (body_type == "heavy") + parity) % 2 == 0:
            yield combination


def png(person: Person) -> bytes:
    """The picture of a person as PNG bytes, the same for the same person."""
    buffer = io.BytesIO()
    draw(person).save(buffer, format="PNG")
    return buffer.getvalue()


def write_folder(folder: Path, pictures: int, seed: int = 0, split: str = "eval") -> None:
    """Write an ImageFolder: a PNG for each person and metadata.csv with their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        for person in counterfactual_sets(pictures, seed, split):
            file_name = f"{person.image_id}.png"
            (folder / file_name).write_bytes(png(person))
            table.writerow({"file_name": file_name, **vars(person)})
