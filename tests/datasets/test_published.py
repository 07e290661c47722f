"""Loaders of published data sets, on small sets in their layouts, whole and damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmmsteer import datasets
from lmmsteer.datasets import LOADERS
from lmmsteer.datasets import social_counterfactuals as social
from lmmsteer.datasets.base import Sample
from lmmsteer.errors import LmmsteerError
from tests.datasets import layouts


def samples(loader: str, path: Path, **keys: Any) -> list[Sample]:
    config = {"loader": loader, "name": loader, "path": str(path), **keys}
    return list(datasets.open_dataset(config).samples())


def refused(loader: str, path: Path, **keys: Any) -> str:
    with pytest.raises(LmmsteerError) as caught:
        samples(loader, path, **keys)
    assert caught.value.mend
    return f"{caught.value.what} {caught.value.mend}"


def labels(found: list[Sample]) -> dict[str, dict[str, str]]:
    return {sample.image_id: dict(sample.labels) for sample in found}


def test_facet_keeps_pictures_of_one_person_or_takes_the_largest(tmp_path: Path) -> None:
    root = layouts.facet(tmp_path)
    one = samples("facet", root)
    assert labels(one) == {
        "sa_1.jpg": {"gender": "male", "skin_tone": "light", "occupation": "doctor"},
        "sa_3.jpg": {"occupation": "doctor"},
        "sa_4.jpg": {"gender": "non-binary", "age": "middle", "occupation": "doctor"},
    }
    assert one[1].extra["class2"] == "nurse"
    assert one[1].extra["features"] == "has_tattoo,lighting_well_lit,visible_face"
    largest = samples("facet", root, persons="largest")
    assert [s.image_id for s in largest] == ["sa_1.jpg", "sa_2.jpg", "sa_3.jpg", "sa_4.jpg"]
    assert largest[1].labels == {
        "gender": "male",
        "skin_tone": "medium",
        "occupation": "basketball player",
    }
    assert largest[1].extra["persons"] == "2"


def test_facet_finds_pictures_in_the_releases_folders(tmp_path: Path) -> None:
    first, third, absent = samples("facet", layouts.facet(tmp_path))
    assert first.read().bytes == layouts.jpeg(0)
    assert third.read().bytes == layouts.jpeg(0)
    assert absent.read().error_kind == "picture_missing"
    (tmp_path / "imgs_1").rename(tmp_path / "elsewhere")
    assert samples("facet", tmp_path, images=str(tmp_path / "elsewhere"))[0].read().bytes


def test_da_coco_labels_a_picture_by_its_largest_person(tmp_path: Path) -> None:
    found = samples("da_coco", layouts.da_coco(tmp_path))
    assert labels(found) == {
        layouts.coco_name(7): {"gender": "male", "skin_tone": "light"},
        layouts.coco_name(9): {"skin_tone": "dark"},
        layouts.coco_name(12): {"gender": "female"},
    }
    assert [s.extra.get("persons") for s in found] == ["2", "1", None]
    assert found[0].read().bytes
    assert found[2].read().error_kind == "picture_missing"
    assert len(samples("da_coco", tmp_path, unsure=True)) == 4


def test_coco_captions_keep_pictures_of_one_gender_with_their_references(tmp_path: Path) -> None:
    root = layouts.coco_captions(tmp_path)
    found = samples("coco_captions", root)
    assert labels(found) == {
        layouts.coco_name(3): {"gender": "male"},
        layouts.coco_name(1): {"gender": "female"},
    }
    assert json.loads(found[0].extra["captions"]) == layouts.CAPTIONS[3]
    everyone = samples("coco_captions", root, gender="all")
    assert [s.image_id for s in everyone] == [layouts.coco_name(n) for n in (3, 1, 2, 5)]
    assert everyone[2].labels == {}


def test_fairface_has_its_seven_races_and_three_ages(tmp_path: Path) -> None:
    found = samples("fairface", layouts.fairface(tmp_path))
    assert labels(found) == {
        "val/1.jpg": {"gender": "male", "race": "East Asian", "age": "young"},
        "val/2.jpg": {"gender": "female", "race": "Latino_Hispanic", "age": "old"},
        "val/3.jpg": {"gender": "female", "race": "Black", "age": "middle"},
    }
    assert found[0].extra == {"age_bin": "3-9", "service_test": "True"}
    assert found[2].read().bytes == layouts.jpeg(2)


WANTED = {
    "0.jpg": {"race": "White", "gender": "male", "occupation": "accountant"},
    "1.jpg": {"race": "White", "gender": "female", "occupation": "accountant"},
    "2.jpg": {"race": "Middle Eastern", "gender": "male", "occupation": "real estate developer"},
    "3.jpg": {"gender": "female", "age": "old", "occupation": "chef"},
    "4.jpg": {"gender": "male", "occupation": "chef"},
    "5.jpg": {"race": "Asian", "body_type": "obese", "occupation": "police officer"},
}


@pytest.mark.parametrize("made", [layouts.social_hub, layouts.social_raw])
def test_social_counterfactuals_are_the_same_from_the_hub_and_raw(
    made: Callable[[Path], Path], tmp_path: Path
) -> None:
    found = samples("social_counterfactuals", made(tmp_path))
    assert labels(found) == WANTED
    assert [s.group_id for s in found] == [
        "race_gender-0",
        "race_gender-0",
        "race_gender-1",
        "physical_gender-0",
        "physical_gender-0",
        "physical_race-5",
    ]
    assert [s.extra.get("appearance") for s in found] == [None] * 4 + ["tattooed", None]
    for number in (0, 5, 2, 3, 1, 4):  # in any order, from row groups that are let go of
        assert found[number].read().bytes == layouts.jpeg(number)


def test_other_columns_of_a_release_are_let_be(tmp_path: Path) -> None:
    layouts.social_hub(tmp_path, {"clip_score": 0.3, "boxes": [1, 2], "new": None})
    assert labels(samples("social_counterfactuals", tmp_path)) == WANTED


def test_subsets_by_pair_and_by_attribute(tmp_path: Path) -> None:
    root = layouts.social_hub(tmp_path)
    pair = samples("social_counterfactuals", root, pair="physical_gender")
    assert [s.image_id for s in pair] == ["3.jpg", "4.jpg"]
    for attribute, wanted in (
        ("age", ["3.jpg"]),
        ("body_type", ["5.jpg"]),
        ("appearance", ["4.jpg"]),
        ("race", ["0.jpg", "1.jpg", "2.jpg", "5.jpg"]),
    ):
        found = samples("social_counterfactuals", root, attribute=attribute)
        assert [s.image_id for s in found] == wanted


def test_no_counterfactual_set_is_in_both_splits() -> None:
    fit = social.SocialCounterfactuals("s", "p", split="fit", fit_share=0.2)
    rest = social.SocialCounterfactuals("s", "p", split="eval", fit_share=0.2)
    groups = [f"race_gender-{n}" for n in range(2000)]
    chosen = [fit._in_split(group) for group in groups]
    assert [rest._in_split(group) for group in groups] == [not one for one in chosen]
    assert 340 < sum(chosen) < 460


@pytest.mark.parametrize(
    ("caption", "both", "occupation"),
    [
        ("A photo of a White male accountant", "White male", "accountant"),
        ("An image of an obese Asian police-officer.", "obese Asian", "police-officer"),
        ("a Middle Eastern female chef", "Middle Eastern female", "chef"),
        ("Middle_Eastern female tailor", "Middle_Eastern female", "tailor"),
        ("A picture of the old male", "old male", None),
        ("", "old male", None),
    ],
)
def test_the_occupation_is_what_is_left_of_a_caption(
    caption: str, both: str, occupation: str | None
) -> None:
    assert social.occupation_of({"caption": caption, "a1a2": both}) == occupation


def test_parquet_takes_any_column_of_pictures(tmp_path: Path) -> None:
    pa_rows = pa.table(
        {
            "id": ["a", "b", "c"],
            "sex": ["male", "female", None],
            "occupation": ["nurse", "chef", ""],
            "photo": pa.array([layouts.jpeg(0), layouts.jpeg(1), None], pa.binary()),
            "score": [0.5, 1.5, 2.5],
        }
    )
    pq.write_table(pa_rows, tmp_path / "x.parquet", row_group_size=1)
    found = samples("parquet", tmp_path, image_id="id", labels={"gender": "sex"})
    assert labels(found) == {
        "a": {"gender": "male", "occupation": "nurse"},
        "b": {"gender": "female", "occupation": "chef"},
        "c": {},
    }
    assert found[1].read().bytes == layouts.jpeg(1)
    assert found[2].read().error_kind == "picture_missing"
    assert found[0].extra == {"score": "0.5"}
    bare = samples("parquet", tmp_path / "x.parquet")
    assert [s.image_id for s in bare] == ["x-000000", "x-000001", "x-000002"]
    assert samples("parquet", tmp_path / "*.parquet", image="photo")[0].read().bytes


def test_parquet_reads_pictures_that_lie_beside_it_and_nothing_else(tmp_path: Path) -> None:
    layouts.pictures(tmp_path, ["a.jpg"])
    images = [{"bytes": None, "path": name} for name in ("a.jpg", "../x.jpg", "http://x/y.jpg")]
    table = pa.table({"image": pa.array(images, layouts.IMAGE)})
    pq.write_table(table, tmp_path / "x.parquet")
    found = [sample.read() for sample in samples("parquet", tmp_path)]
    assert found[0].bytes == layouts.jpeg(0)
    assert [p.error_kind for p in found[1:]] == ["picture_outside"] * 2


PLACES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "facet": (layouts.facet, "annotations.csv", "class1"),
    "da_coco": (layouts.da_coco, "images_val2014.csv", "bb_gender"),
    "fairface": (layouts.fairface, "fairface_label_val.csv", "race"),
    "social_counterfactuals": (layouts.social_raw, "metadata.csv", "counterfactual_set"),
}


@pytest.mark.parametrize("loader", PLACES)
def test_malformed_tables_are_named_with_what_is_wrong(loader: str, tmp_path: Path) -> None:
    made, name, column = PLACES[loader]
    file = made(tmp_path) / name
    good = file.read_text()
    file.write_text(good.replace(column, "other", 1))
    assert f"lacks the column {column}; it has " in refused(loader, tmp_path)
    file.write_text(good.replace(",", ";"))
    assert "lacks the column" in refused(loader, tmp_path)
    file.write_bytes(good.encode() + b"\xff\xfe")
    assert "not UTF-8" in refused(loader, tmp_path)
    file.write_text(good + "cut")
    assert f"line {len(good.splitlines()) + 1}: 1 fields" in refused(loader, tmp_path)
    file.write_text(good.splitlines()[0] + "\n")
    assert "has no rows" in refused(loader, tmp_path)


@pytest.mark.parametrize("loader", sorted(set(LOADERS) - {"demo", "folder", "synthetic"}))
def test_what_is_not_there_is_named_with_where_it_comes_from(loader: str, tmp_path: Path) -> None:
    assert "dataset.path=" in refused(loader, tmp_path / "none")
    said = refused(loader, tmp_path)
    assert loader == "parquet" or "https://" in said or "Parquet" in said, said


@pytest.mark.parametrize(
    ("loader", "made", "folder"),
    [
        ("facet", layouts.facet, "imgs_*"),
        ("da_coco", layouts.da_coco, "val2014"),
        ("coco_captions", layouts.coco_captions, "val2014"),
    ],
)
def test_a_half_unpacked_data_set_says_which_pictures_are_missing(
    loader: str, made: Callable[[Path], Path], folder: str, tmp_path: Path
) -> None:
    root = made(tmp_path)
    for found in list(root.glob(folder)):
        for picture in found.iterdir():
            picture.unlink()
    said = refused(loader, root)
    assert said.startswith("None of the ")
    assert "https://" in said


@pytest.mark.parametrize(
    ("loader", "keys"),
    [
        ("facet", {"persons": "two"}),
        ("fairface", {"split": "test"}),
        ("coco_captions", {"gender": "both"}),
        ("social_counterfactuals", {"pair": "gender_race"}),
        ("social_counterfactuals", {"split": "train"}),
        ("social_counterfactuals", {"attribute": "hair"}),
        ("social_counterfactuals", {"fit_share": 1.0}),
    ],
)
def test_a_value_that_a_key_does_not_have_is_refused(
    loader: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    assert f"dataset.{next(iter(keys))}=" in refused(loader, tmp_path, **keys)


def test_a_cut_parquet_file_is_named(tmp_path: Path) -> None:
    path = layouts.social_hub(tmp_path) / "data/train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert "train-00001-of-00002.parquet cannot be read" in refused(
        "social_counterfactuals", tmp_path
    )


def test_a_set_without_its_columns_is_another_data_set(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"image": pa.array([{"bytes": b"x", "path": None}], layouts.IMAGE)}),
        tmp_path / "x.parquet",
    )
    assert "lacks the column counterfactual_set, a1a2" in refused(
        "social_counterfactuals", tmp_path
    )
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    assert "has no column of pictures" in refused("parquet", tmp_path)


def test_captions_in_another_layout_are_refused(tmp_path: Path) -> None:
    file = layouts.coco_captions(tmp_path) / "annotations/captions_val2014.json"
    for text, says in (("[]", "not in the layout"), ('{"images": [', "cannot be read")):
        file.write_text(text)
        assert says in refused("coco_captions", tmp_path)
