import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmmsteer import manifest
from lmmsteer.datasets.base import Sample, picture_of_bytes, read_picture
from lmmsteer.disk import Disk
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.schema import Picture, row_id
from lmmsteer.store import LocalStore
from tests.conftest import png

PROMPTS = {"a": "What?", "b": "Who?"}
COLORS = ("red", "green", "blue", "white", "black")


class Colors:
    """A data set of one picture for each colour."""

    name = "colors"

    def __init__(self, colors: tuple[str, ...] = COLORS) -> None:
        self.colors = colors

    def samples(self) -> Iterator[Sample]:
        for color in self.colors:
            picture = picture_of_bytes(color, png(color))
            yield Sample(color, lambda p=picture: p, "set", {"gender": "woman"}, {"k": color})


def asked(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "dataset": {"name": "colors"},
        "prompts": PROMPTS,
        "seeds": [0, 1, 2],
        "limit": None,
        "shard_images": 2,
    }
    return manifest.identity(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def test_rows_are_pictures_times_prompts_times_seeds_with_a_picture_in_one_shard(
    store: LocalStore,
) -> None:
    made = manifest.build(store, "colors", Colors(), asked())
    assert (made.images, made.rows) == (5, 30)
    assert [shard.images for shard in made.shards] == [2, 2, 1]
    first = manifest.read_rows(store, "colors", "part-00000.parquet")
    expected = [(c, p, s) for c in ("red", "green") for p in PROMPTS for s in range(3)]
    assert [(r.image_id, r.prompt_id, r.seed) for r in first] == expected
    assert first[0].gender == "woman"
    assert first[0].extra == {"k": "red"}


def test_a_row_id_hashes_the_bytes_of_the_original_file(store: LocalStore) -> None:
    manifest.build(store, "colors", Colors(), asked())
    row = manifest.read_rows(store, "colors", "part-00001.parquet")[0]
    sha = hashlib.sha256(png("blue")).hexdigest()
    assert row.row_id == row_id("blue", sha, "What?", 0)
    pictures = manifest.read_pictures(store, "colors", "part-00001.parquet")
    assert pictures["blue"].bytes == png("blue")
    assert pictures["blue"].sha256 == sha


def test_it_is_made_once_and_found_again(store: LocalStore) -> None:
    made = manifest.build(store, "colors", Colors(), asked())
    before = {path: store.read_bytes(path) for path in store.list()}
    again = manifest.build(store, "colors", Colors(()), asked())
    assert again.shards == made.shards
    assert {path: store.read_bytes(path) for path in store.list()} == before


@pytest.mark.parametrize("lost", ["rows/part-00001.parquet", "images/part-00001.parquet"])
def test_a_part_that_was_moved_away_is_made_again_byte_for_byte(
    lost: str, store: LocalStore
) -> None:
    made = manifest.build(store, "colors", Colors(), asked())
    path = f"manifest/dataset=colors/{lost}"
    before = store.read_bytes(path)
    store.move(path, "trash/x")
    assert manifest.missing(store, made) == ["part-00001.parquet"]
    manifest.build(store, "colors", Colors(), asked())
    assert store.read_bytes(path) == before


def test_one_that_was_interrupted_is_finished_to_the_same_bytes(
    store: LocalStore, tmp_path: Path
) -> None:
    manifest.build(store, "colors", Colors(), asked())
    whole = {path: store.read_bytes(path) for path in store.list()}
    other = LocalStore(tmp_path / "other")
    for path in sorted(whole)[:2]:
        other.create(path, whole[path])
    manifest.build(other, "colors", Colors(), asked())
    assert {path: other.read_bytes(path) for path in other.list()} == whole


def test_parts_that_a_killed_run_made_outlive_the_machine_before_the_record_counts_them(
    store: LocalStore, tmp_path: Path
) -> None:
    """A run was killed between the naming of its last part and the sync of the folder."""
    manifest.build(store, "colors", Colors(), asked())
    store.move("manifest/dataset=colors/_manifest.json", "trash/x")
    done: list[str] = []

    class Noted(Disk):
        def sync_folder(self, path: Path) -> None:
            done.append(path.name)
            super().sync_folder(path)

        def link(self, source: Path, target: Path) -> None:
            done.append(target.name)
            super().link(source, target)

    manifest.build(LocalStore(tmp_path, Noted()), "colors", Colors(), asked())
    assert {"rows", "images"} <= set(done[: done.index("_manifest.json")])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seeds": [0]}, "seeds: [0, 1, 2] -> [0]"),
        ({"limit": 3}, "limit: null -> 3"),
        ({"prompts": {**PROMPTS, "a": "Why?"}}, 'prompts.a: "What?" -> "Why?"'),
        ({"dataset": {"name": "colors", "path": "/x"}}, 'dataset.path: null -> "/x"'),
    ],
)
def test_another_config_is_refused_with_the_differing_key(
    changes: dict[str, object], named: str, store: LocalStore
) -> None:
    manifest.build(store, "colors", Colors(), asked())
    with pytest.raises(LmmsteerError) as caught:
        manifest.build(store, "colors", Colors(), asked(**changes))
    assert named in caught.value.what


def test_an_unfinished_one_of_another_config_is_refused(store: LocalStore) -> None:
    manifest.build(store, "colors", Colors(), asked())
    store.move("manifest/dataset=colors/_manifest.json", "trash/x")
    with pytest.raises(LmmsteerError, match="another data set, prompts, seeds or limit"):
        manifest.build(store, "colors", Colors(), asked(seeds=[5]))


def test_pictures_that_changed_since_are_named(store: LocalStore) -> None:
    manifest.build(store, "colors", Colors(), asked())
    for kind in ("rows", "images"):
        path = f"manifest/dataset=colors/{kind}/part-00001.parquet"
        store.move(path, f"trash/{kind}")
    before = store.list()
    with pytest.raises(RunFailed, match="part-00001"):
        manifest.build(store, "colors", Colors(("red", "green", "pink", "white", "black")), asked())
    assert store.list() == before, "nothing of other pictures is written"


@pytest.mark.parametrize("now", [COLORS[:4], (*COLORS, "pink")])
def test_a_data_set_of_another_size_is_refused_before_a_part_is_made_again(
    now: tuple[str, ...], store: LocalStore
) -> None:
    manifest.build(store, "colors", Colors(), asked())
    store.move("manifest/dataset=colors/rows/part-00000.parquet", "trash/x")
    before = store.list()
    with pytest.raises(LmmsteerError, match=f"made of 5 pictures, and the data set has {len(now)}"):
        manifest.build(store, "colors", Colors(now), asked())
    assert store.list() == before


def test_a_half_written_one_is_not_finished_with_other_pictures(store: LocalStore) -> None:
    """A picture came to the front: each part alone would be sound, and `white` would be lost."""
    manifest.build(store, "colors", Colors(), asked())
    for path in ("_manifest.json", "rows/part-00002.parquet", "images/part-00002.parquet"):
        store.move(f"manifest/dataset=colors/{path}", f"trash/{path}")
    with pytest.raises(RunFailed, match="part-00000"):
        manifest.build(store, "colors", Colors(("pink", *COLORS)), asked())


def test_a_half_written_one_is_not_finished_with_fewer_pictures(store: LocalStore) -> None:
    manifest.build(store, "colors", Colors(), asked())
    store.move("manifest/dataset=colors/_manifest.json", "trash/x")
    with pytest.raises(RunFailed, match="part-00002"):
        manifest.build(store, "colors", Colors(COLORS[:4]), asked())
    assert not store.exists("manifest/dataset=colors/_manifest.json")


def test_where_another_run_is_first_its_record_is_taken(store: LocalStore) -> None:
    class Late(Colors):
        """Another run makes the whole manifest while this one reads its last picture."""

        def samples(self) -> Iterator[Sample]:
            *first, last = super().samples()
            yield from first

            def read() -> Picture:
                manifest.build(store, "colors", Colors(), asked())
                return last.read()

            yield Sample(last.image_id, read, last.group_id, last.labels, last.extra)

    made = manifest.build(store, "colors", Late(), asked())
    assert made == manifest.load(store, "colors")
    assert (made.images, made.rows) == (5, 30)


def test_every_flipped_bit_of_the_record_is_found(store: LocalStore, tmp_path: Path) -> None:
    manifest.build(store, "colors", Colors(), asked())
    path = tmp_path / "manifest/dataset=colors/_manifest.json"
    whole = path.read_bytes()
    for at in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(LmmsteerError, match=r"_manifest\.json is damaged"):
            manifest.load(store, "colors")


def test_a_limit_takes_the_first_pictures(store: LocalStore) -> None:
    made = manifest.build(store, "colors", Colors(), asked(limit=3))
    assert made.images == 3


def test_a_repeated_image_id_is_refused(store: LocalStore) -> None:
    with pytest.raises(LmmsteerError, match="red occurs twice"):
        manifest.build(store, "colors", Colors(("red", "green", "red")), asked())
    assert store.list() == []


def test_a_picture_that_cannot_be_read_keeps_its_rows_and_a_reason(
    store: LocalStore, tmp_path: Path
) -> None:
    class Missing(Colors):
        def samples(self) -> Iterator[Sample]:
            yield Sample("gone", lambda: read_picture("gone", tmp_path / "gone.png", tmp_path))
            yield Sample("out", lambda: read_picture("out", tmp_path / ".." / "x", tmp_path))

    made = manifest.build(store, "colors", Missing(), asked())
    assert made.rows == 12
    pictures = manifest.read_pictures(store, "colors", "part-00000.parquet")
    assert pictures["gone"].bytes is None
    assert pictures["gone"].error_kind == "picture_missing"
    assert pictures["out"].error_kind == "picture_outside"
