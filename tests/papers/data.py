"""The papers' data sets in miniature: drawn people in the layouts of the published files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmmsteer.demo.people import Person, counterfactual_sets, png
from tests.datasets.layouts import IMAGE, coco_name, person, write_csv

RACES = {"light": "White", "medium": "Asian", "dark": "Black"}
GENDERS = {"man": "male", "woman": "female"}
BODIES = {"slim": "skinny", "heavy": "obese"}
TONES = {"light": 2, "medium": 5, "dark": 9}
SETS = 30  # Counterfactual sets: a fifth of them is for directions.
PICTURES = 48  # Of every other data set.


def write_all(root: Path) -> Path:
    """Every data set that the experiments name, each in the folder that `data` finds it in."""
    if not (root / "whole").exists():
        for write in (social, facet, da_coco, coco_captions, fairface, texts, instruct):
            write(root)
        (root / "whole").touch()
    return root


def social(root: Path) -> None:
    """SocialCounterfactuals as on the hub: two Parquet files."""
    people = counterfactual_sets(12 * SETS)
    rows = [
        row
        for number, (_, group) in enumerate(groupby(people, key=lambda one: one.group_id))
        for row in _set(number, list(group))
    ]
    folder = root / "social_counterfactuals/data"
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate((rows[::2], rows[1::2])):
        columns = {key: [row[key] for row in part] for key in rows[0]}
        table = pa.table(
            {k: pa.array(v, IMAGE if k == "image" else None) for k, v in columns.items()}
        )
        path = folder / f"train-{number:05d}-of-00002.parquet"
        pq.write_table(table, path, row_group_size=20)


def _set(number: int, group: Sequence[Person]) -> Iterator[dict[str, Any]]:
    """A set of one pair of attributes; the pairs take turns."""
    race, gender = lambda p: RACES[p.skin_tone], lambda p: GENDERS[p.gender]
    looks = (lambda p: p.age) if number % 2 else (lambda p: BODIES[p.body_type])
    (one, first), (two, second) = (
        (("race", race), ("gender", gender)),
        (("physical", looks), ("gender", gender)),
        (("physical", looks), ("race", race)),
    )[number % 3]
    seen: set[tuple[str, str]] = set()
    for member in group:
        a1, a2 = first(member), second(member)
        if (a1, a2) in seen:
            continue
        seen.add((a1, a2))
        caption = f"A photo of a {a1} {a2} {member.occupation}"
        yield {
            "image": {"bytes": png(member), "path": f"{member.image_id}.png"},
            "counterfactual_set": number,
            "a1": a1,
            "a1_type": one,
            "a2": a2,
            "a2_type": two,
            "a1a2": f"{a1} {a2}",
            "caption": caption,
        }


def facet(root: Path) -> None:
    rows = []
    for number, one in enumerate(_people(1)):
        name = f"sa_{1000 + number}.jpg"
        _picture(root / "facet/imgs_1" / name, one)
        said = {
            "class1": one.occupation,
            f"gender_presentation_{'masc' if one.gender == 'man' else 'fem'}": 1,
            f"age_presentation_{'young' if one.age == 'young' else 'older'}": 1,
            f"skin_tone_{TONES[one.skin_tone]}": 2,
        }
        rows.append(person(number, name, **said))
    write_csv(root / "facet/annotations.csv", rows)


def da_coco(root: Path) -> None:
    rows = []
    for number, one in enumerate(_people(2), start=1):
        _picture(root / "da_coco/val2014" / coco_name(number), one)
        tone, light = TONES[one.skin_tone], one.skin_tone != "dark"
        rows.append(
            {
                "id": number,
                "skin": f"[{tone}]",
                "ratio": 0.4,
                "bb_skin": "Light" if light else "Dark",
                "bb_gender": "Male" if one.gender == "man" else "Female",
                "split": "val",
            }
        )
    write_csv(root / "da_coco/images_val2014.csv", rows)
    instances = [{"id": row["id"], "skin": row["skin"].strip("[]")} for row in rows]
    write_csv(root / "da_coco/instances_val2014.csv", instances)


def coco_captions(root: Path) -> None:
    images, annotations = [], []
    for number, one in enumerate(_people(3), start=1):
        _picture(root / "coco_captions/val2014" / coco_name(number), one)
        images.append({"id": number, "file_name": coco_name(number), "width": 96})
        for at, text in enumerate(
            (f"A {one.gender} at the {one.background}.", f"The {one.age} {one.occupation} smiles.")
        ):
            annotations.append({"id": 10 * number + at, "image_id": number, "caption": text})
    folder = root / "coco_captions/annotations"
    folder.mkdir(parents=True, exist_ok=True)
    content = {"info": {}, "images": images, "annotations": annotations}
    (folder / "captions_val2014.json").write_text(json.dumps(content), encoding="utf-8")


def fairface(root: Path) -> None:
    rows = []
    for number, one in enumerate(_people(4, split="fit"), start=1):
        _picture(root / "fairface" / f"val/{number}.jpg", one)
        rows.append(
            {
                "file": f"val/{number}.jpg",
                "age": "20-29" if one.age == "young" else "60-69",
                "gender": GENDERS[one.gender].title(),
                "race": RACES[one.skin_tone],
                "service_test": True,
            }
        )
    write_csv(root / "fairface/fairface_label_val.csv", rows)


def texts(root: Path) -> None:
    """Bias in Bios as on the hub, and Wikipedia Toxicity."""
    jobs = ("doctor", "nurse", "farmer", "chef", "teacher", "painter", "pilot", "builder")
    bios = [
        {"hard_text": f"{who} is a {job}. {whose} work is {good}.", "profession": 1, "gender": sex}
        for job in jobs
        for good in ("good", "old", "kind")
        for sex, (who, whose) in enumerate((("He", "His"), ("She", "Her")))
    ]
    (root / "bias_in_bios").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(bios), root / "bias_in_bios/train.parquet")
    said = [
        (f"{'What a rude and ugly' if toxic else 'Thank you for the kind'} {job}.", toxic)
        for job in jobs * 3
        for toxic in (False, True)
    ]
    write_csv(
        root / "wiki_toxicity/wiki_train.csv",
        [{"comment": text, "is_toxic": toxic} for text, toxic in said],
    )


def instruct(root: Path) -> None:
    asked = ("What is the weather?", "What objects are there?", "What is in the background?")
    records = [
        {
            "id": str(number),
            "image": f"{number:012d}.jpg",
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}"},
                {"from": "gpt", "value": "A box." if number else "A man with a box."},
            ],
        }
        for number, question in enumerate(("Who is there?", *asked))
    ]
    (root / "llava_instruct_80k.json").write_text(json.dumps(records), encoding="utf-8")


def _people(seed: int, split: str = "eval") -> Iterable[Person]:
    return counterfactual_sets(PICTURES, seed, split)


def _picture(path: Path, one: Person) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(one))
