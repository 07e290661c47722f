import csv
import io
import itertools
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lmmsteer.demo.people import (
    ATTRIBUTES,
    OCCUPATIONS,
    Person,
    counterfactual_sets,
    draw,
    png,
    write_folder,
)


def pixels(person: Person) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png(person)))).astype(int)


@pytest.fixture(scope="module")
def crowd() -> list[Person]:
    return list(counterfactual_sets(120, seed=0, split="eval"))


def test_the_same_person_is_drawn_as_the_same_bytes(crowd):
    again = list(counterfactual_sets(120, seed=0, split="eval"))
    assert again == crowd
    assert [png(p) for p in crowd[:12]] == [png(p) for p in again[:12]]


def test_a_picture_is_256_pixels_rgb(crowd):
    image = draw(crowd[0])
    assert (image.size, image.mode) == ((256, 256), "RGB")


def test_120_pictures_are_balanced_over_every_attribute_and_occupation(crowd):
    for attribute, labels in ATTRIBUTES.items():
        counts = Counter(getattr(p, attribute) for p in crowd)
        assert counts == {label: 120 // len(labels) for label in labels}
    assert Counter(p.occupation for p in crowd) == dict.fromkeys(OCCUPATIONS, 12)
    combinations = Counter((p.gender, p.age, p.body_type, p.skin_tone) for p in crowd)
    assert set(combinations.values()) == {5}
    assert len(combinations) == 24


def test_members_of_a_set_differ_in_their_attributes_only(crowd):
    sets = defaultdict(list)
    for person in crowd:
        sets[person.group_id].append(person)
    for members in sets.values():
        blank = {"image_id": "", **dict.fromkeys(ATTRIBUTES, "")}
        assert len({replace(p, **blank) for p in members}) == 1
        assert len({(p.gender, p.age, p.body_type, p.skin_tone) for p in members}) == len(members)


def test_skin_tone_alone_leaves_the_scene_around_the_person_as_it_is(crowd):
    light, dark = crowd[0], replace(crowd[0], skin_tone="dark")
    assert light.skin_tone == "light"
    changed = np.any(pixels(light) != pixels(dark), axis=2)
    assert 0.005 < changed.mean() < 0.15
    assert not changed[:, :40].any()
    assert not changed[:, 216:].any()


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_attribute_can_be_seen_at_60_pixels(crowd, attribute):
    person = crowd[0]
    small = [
        np.asarray(draw(replace(person, **{attribute: label})).resize((60, 60))).astype(int)
        for label in ATTRIBUTES[attribute]
    ]
    for first, second in itertools.pairwise(small):
        assert (np.abs(first - second).max(axis=2) > 40).sum() >= 15


def test_splits_and_seeds_share_no_set_no_picture_and_no_jitter():
    def ids(split: str, seed: int) -> list[Person]:
        return list(counterfactual_sets(480, seed=seed, split=split))

    crowds = [ids("train", 0), ids("fit", 0), ids("eval", 0), ids("eval", 1)]
    for what in ("group_id", "image_id", "seed"):
        seen = [{getattr(p, what) for p in crowd} for crowd in crowds]
        assert len(set.union(*seen)) == sum(map(len, seen))


def test_a_folder_holds_a_readable_picture_for_each_row_of_its_metadata(tmp_path):
    write_folder(tmp_path / "people", 24, seed=3, split="fit")
    with (tmp_path / "people" / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == (
        "file_name,image_id,group_id,gender,age,body_type,skin_tone,occupation,background,split"
    )
    assert len({row["image_id"] for row in rows}) == 24
    assert Counter(row["group_id"] for row in rows) == {"fit-3-0000": 12, "fit-3-0001": 12}
    people = {p.image_id: p for p in counterfactual_sets(24, seed=3, split="fit")}
    for row in rows:
        assert (tmp_path / "people" / row["file_name"]).read_bytes() == png(people[row["image_id"]])
        assert row["skin_tone"] == people[row["image_id"]].skin_tone
