"""The rows of a shard, made by columns, against rows made one by one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmsteer import parts
from lmmsteer.datasets.base import Sample, picture_of_bytes
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.schema import IMAGES, LABELS, ROWS, Picture, Request, row_id, to_table
from lmmsteer.shards import Maker, Shard, rows_table
from lmmsteer.store import LocalStore

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
ASKED: dict[str, Any] = {"prompts": {"a": "What?", "b": 'Say "é".'}, "seeds": [0, 7]}


def one_by_one(
    samples: list[Sample], pictures: list[Picture], asked: dict[str, Any]
) -> Iterator[Request]:
    for sample, picture in zip(samples, pictures, strict=True):
        for prompt_id, prompt in asked["prompts"].items():
            occupation = sample.labels.get("occupation")
            if "[OCCUPATION]" in prompt and not occupation:
                continue
            prompt = prompt.replace("[OCCUPATION]", occupation or "")
            for seed in asked["seeds"]:
                yield Request(
                    row_id(sample.image_id, picture.sha256, prompt, seed),
                    sample.image_id,
                    prompt_id,
                    prompt,
                    seed,
                    sample.group_id,
                    extra=sample.extra,
                    **{label: sample.labels.get(label) for label in LABELS},
                )


def sample(image_id: str, *more: Any) -> Sample:
    return Sample(image_id, lambda: picture_of_bytes(image_id, image_id.encode()), *more)


samples = st.lists(
    st.builds(
        sample,
        TEXT,
        st.none() | TEXT,
        st.dictionaries(st.sampled_from(LABELS), TEXT, max_size=3),
        st.dictionaries(TEXT, TEXT, max_size=3),
    ),
    max_size=5,
)
questions = st.fixed_dictionaries(
    {
        "prompts": st.dictionaries(
            TEXT, TEXT | st.builds("{}[OCCUPATION]{}".format, TEXT, TEXT), max_size=3
        ),
        "seeds": st.lists(st.integers(0, 2**62), max_size=3),
    }
)


@settings(max_examples=100, deadline=None)
@given(samples, questions)
def test_rows_made_by_columns_are_the_rows_made_one_by_one_to_the_byte(
    samples: list[Sample], asked: dict[str, Any]
) -> None:
    pictures = [sample.read() for sample in samples]
    expected = to_table(one_by_one(samples, pictures, asked), ROWS)
    found = rows_table(samples, pictures, asked)
    assert found.schema.equals(ROWS)
    assert found.equals(expected)
    assert parts.to_bytes(found, "f") == parts.to_bytes(expected, "f")


def maker(store: LocalStore, mark: str = "f" * 64) -> Maker:
    return Maker(store, "m", ASKED, mark, frozenset(store.list("m")))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def test_a_shard_that_is_there_is_not_read_again(store: LocalStore) -> None:
    made = maker(store).shard(3, [sample("x"), sample("y")])
    assert made == Shard("part-00003.parquet", 8, 2, made.rows_digest, made.images_digest)

    def refuse() -> Picture:
        raise AssertionError("read again")

    unread = [Sample(image_id, refuse) for image_id in ("x", "y")]
    assert maker(store).shard(3, unread) == made


@pytest.mark.parametrize("now", [["y", "x"], ["x", "z"], ["x"], ["x", "y", "z"]])
def test_a_part_that_shows_other_pictures_than_the_data_set_is_named(
    now: list[str], store: LocalStore
) -> None:
    maker(store).shard(3, [sample("x"), sample("y")])
    with pytest.raises(RunFailed, match="the pictures of part-00003"):
        maker(store).shard(3, [sample(image_id) for image_id in now])


def test_rows_are_not_added_to_pictures_that_changed_in_between(store: LocalStore) -> None:
    """The images part was written, then the build was killed, then a file was replaced."""
    maker(store).shard(0, [sample("x")])
    store.move("m/rows/part-00000.parquet", "trash/x")
    replaced = Sample("x", lambda: picture_of_bytes("x", b"another file"))
    with pytest.raises(RunFailed, match="the pictures of part-00000"):
        maker(store).shard(0, [replaced])
    assert store.list("m/rows") == []


def test_a_part_that_another_run_makes_meanwhile_is_taken_if_it_is_the_same(
    store: LocalStore,
) -> None:
    nothing_yet = maker(store)
    made = maker(store).shard(0, [sample("x")])
    assert nothing_yet.shard(0, [sample("x")]) == made
    with pytest.raises(LmmsteerError, match="another data set, prompts, seeds or limit"):
        maker(store, mark="e" * 64).shard(0, [sample("x")])


def test_a_text_that_is_no_unicode_is_named(store: LocalStore) -> None:
    """A file name in another encoding, or half a surrogate pair in metadata.jsonl."""
    none = Picture("b", None, None)
    for bad in (
        Sample("b\udce9.png", lambda: none),
        Sample("b", lambda: none, extra={"k": "\ud800"}),
    ):
        with pytest.raises(LmmsteerError, match="no Unicode"):
            maker(store).shard(0, [bad])


def test_a_picture_that_cannot_be_read_has_rows_and_a_reason(store: LocalStore) -> None:
    broken = Sample("x", lambda: Picture("x", None, None, "picture_missing", "gone"))
    shard = maker(store).shard(0, [broken])
    assert (shard.rows, shard.images) == (4, 1)
    rows = parts.read(store, "m/rows/part-00000.parquet", ROWS)
    expected = [row_id("x", None, p, s) for p in ASKED["prompts"].values() for s in (0, 7)]
    assert rows.column("row_id").to_pylist() == expected
    images = parts.read(store, "m/images/part-00000.parquet", IMAGES)
    assert images.column("error_kind").to_pylist() == ["picture_missing"]
