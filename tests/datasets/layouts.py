"""Small sets in the layouts in which the published ones come."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def jpeg(number: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), (number * 40 % 256, 90, 120)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, list(rows[0]))
        lines.writeheader()
        lines.writerows(rows)


def pictures(folder: Path, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))


# FACET


def person(number: int, filename: str, **said: Any) -> dict[str, Any]:
    """A row of annotations.csv; `said`: columns by the end of their names, or whole."""
    columns = {
        "person_id": number,
        "filename": filename,
        "class1": "doctor",
        "class2": "",
        "bounding_box": '{"x": 1, "y": 2, "width": 10, "height": 20}',
        **{f"gender_presentation_{k}": 0 for k in ("masc", "fem", "non_binary", "na")},
        **{f"skin_tone_{k}": 0 for k in (*range(1, 11), "na")},
        **{f"age_presentation_{k}": 0 for k in ("young", "middle", "older", "na")},
        "has_tattoo": 0,
        "lighting_well_lit": 1,
        "visible_face": 1,
    }
    assert set(said) <= set(columns), said
    return {**columns, **said}


def facet(root: Path) -> Path:
    people = [
        person(0, "sa_1.jpg", gender_presentation_masc=1, skin_tone_2=1, skin_tone_5=2),
        person(1, "sa_2.jpg", gender_presentation_fem=1, skin_tone_9=3, age_presentation_older=1),
        person(2, "sa_2.jpg", gender_presentation_masc=1, class1="basketball_player", skin_tone_4=1)
        | {"bounding_box": "{'x': 0, 'y': 0, 'width': 90, 'height': 40}"},
        person(
            3, "sa_3.jpg", class2="nurse", gender_presentation_na=1, skin_tone_7=1, has_tattoo=1
        ),
        person(4, "sa_4.jpg", gender_presentation_non_binary=1, age_presentation_middle=1),
    ]
    write_csv(root / "annotations.csv", people)
    pictures(root / "imgs_1", ["sa_1.jpg", "sa_2.jpg"])
    pictures(root / "imgs_2", ["sa_3.jpg"])
    return root


# COCO


def coco_name(number: int) -> str:
    return f"COCO_val2014_{number:012d}.jpg"


def da_coco(root: Path) -> Path:
    rows = [
        {"id": 7, "skin": "[2, 3]", "ratio": 0.2, "bb_skin": "Light", "bb_gender": "Male"},
        {"id": 9, "skin": "[5]", "ratio": 0.4, "bb_skin": "Dark", "bb_gender": "Unsure"},
        {"id": 8, "skin": "[]", "ratio": 0.1, "bb_skin": "Both", "bb_gender": "Both"},
        {"id": 12, "skin": "[6]", "ratio": 0.3, "bb_skin": "Unsure", "bb_gender": "Female"},
    ]
    write_csv(root / "images_val2014.csv", [row | {"split": "val"} for row in rows])
    people = [{"id": 7, "skin": 2}, {"id": 7, "skin": 3}, {"id": 9, "skin": 5}]
    write_csv(root / "instances_val2014.csv", people)
    pictures(root / "val2014", [coco_name(n) for n in (7, 8, 9)])
    return root


CAPTIONS = {
    3: ["A man riding a bicycle.", "Someone on a bike."],
    1: ["A woman with a dog.", "The lady walks her dog."],
    2: ["A man and a woman.", "Two people."],
    5: ["A plate of food."],
    6: [],
}


def coco_captions(root: Path) -> Path:
    content = {
        "info": {},
        "images": [{"id": n, "file_name": coco_name(n), "width": 9} for n in CAPTIONS],
        "annotations": [
            {"id": 10 * n + i, "image_id": n, "caption": text}
            for n, found in CAPTIONS.items()
            for i, text in enumerate(found)
        ],
    }
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations/captions_val2014.json").write_text(json.dumps(content))
    pictures(root / "val2014", [coco_name(n) for n in CAPTIONS])
    return root


# FairFace


def fairface(root: Path) -> Path:
    rows = [
        {"file": "val/1.jpg", "age": "3-9", "gender": "Male", "race": "East Asian"},
        {"file": "val/2.jpg", "age": "50-59", "gender": "Female", "race": "Latino_Hispanic"},
        {"file": "val/3.jpg", "age": "30-39", "gender": "Female", "race": "Black"},
    ]
    write_csv(root / "fairface_label_val.csv", [row | {"service_test": True} for row in rows])
    pictures(root, [row["file"] for row in rows])
    return root


# SocialCounterfactuals

PEOPLE = [
    ("race", "White", "gender", "male", 0, "accountant"),
    ("race", "White", "gender", "female", 0, "accountant"),
    ("race", "Middle Eastern", "gender", "male", 1, "real-estate_developer"),
    ("physical", "old", "gender", "female", 0, "chef"),
    ("physical", "tattooed", "gender", "male", 0, "chef"),
    ("physical", "obese", "race", "Asian", 5, "police officer"),
]


def counterfactuals() -> list[dict[str, Any]]:
    rows = []
    for number, (one, a1, two, a2, own, occupation) in enumerate(PEOPLE):
        template = ("A photo of a", "A picture of an", "", "An image of a")[number % 4]
        rows.append(
            {
                "counterfactual_set": own,
                "a1": a1,
                "a1_type": one,
                "a2": a2,
                "a2_type": two,
                "a1a2": f"{a1} {a2}",
                "caption": f"{template} {a1} {a2} {occupation}",
                "file_name": f"{number}.jpg",
            }
        )
    return rows


def social_hub(root: Path, more: Mapping[str, Any] | None = None) -> Path:
    """Two Parquet shards, two rows a row group, as `datasets` saves them."""
    rows = counterfactuals()
    for number, row in enumerate(rows):
        row["image"] = {"bytes": jpeg(number), "path": row.pop("file_name")}
        row |= more or {}
    (root / "data").mkdir(parents=True, exist_ok=True)
    for number, part in enumerate((rows[:4], rows[4:])):
        types = {"image": IMAGE}
        table = pa.table({key: pa.array([r[key] for r in part], types.get(key)) for key in part[0]})
        path = root / f"data/train-{number:05d}-of-00002.parquet"
        pq.write_table(table, path, row_group_size=2)
    return root


def social_raw(root: Path) -> Path:
    rows = [
        {key: row[key] for key in ("file_name", "caption", "a1a2", "counterfactual_set")}
        for row in counterfactuals()
    ]
    write_csv(root / "metadata.csv", rows)
    pictures(root, [row["file_name"] for row in rows])
    return root
