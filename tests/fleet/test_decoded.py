"""A shard's pictures: in order, a little ahead, never all in memory; the broken ones a filler."""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from lmmsteer.errors import PictureError, RunFailed
from lmmsteer.fleet import pictures
from lmmsteer.fleet.pictures import Decoded
from lmmsteer.models import picture_child
from lmmsteer.models.picture_child import Limits
from lmmsteer.models.picture_pool import Decoders
from lmmsteer.schema import Picture
from tests.conftest import png
from tests.models.hostile import bombs, cat, ordinary

COLORS = ("red", "lime", "blue", "white")
SIDE = 64
BYTES = SIDE * SIDE * 4


def shard(count: int) -> dict[str, Picture]:
    """So many small pictures, every fourth of the same colour."""
    files = [png(color, (SIDE, SIDE)) for color in COLORS]
    return {f"{n:05d}": Picture(f"{n:05d}", files[n % 4], None) for n in range(count)}


def color(image: Image.Image) -> str:
    value = image.getpixel((1, 1))
    names = {(255, 0, 0): "red", (0, 255, 0): "lime", (0, 0, 255): "blue"}
    return names.get(value, "white")  # type: ignore[arg-type]


class Counting(Decoders):
    """Decoders that note what they were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []

    def submit(self, data: bytes) -> Future[Image.Image]:
        self.asked.append(data)
        return super().submit(data)


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    with closing(Counting()) as made:
        monkeypatch.setattr(pictures, "shared_decoders", lambda: made)
        yield made


def test_each_is_decoded_once_when_all_are_asked_for_in_order(decoders: Counting) -> None:
    with Decoded(shard(100)) as shown:
        found = [color(shown[image_id]) for image_id in shown]
        assert [shown.error(image_id) for image_id in shown] == [None] * 100
    assert found == list(COLORS) * 25
    assert len(decoders.asked) == 100


def test_pictures_are_decoded_before_they_are_asked_for_but_not_all(decoders: Counting) -> None:
    with Decoded(shard(100)) as shown:
        assert color(shown["00000"]) == "red"
        for future in _settled(shown):
            future.exception()
        assert 2 <= len(decoders.asked) <= 1 + pictures.AHEAD


def _settled(shown: Decoded) -> Iterator[Future[Image.Image]]:
    """What is under way, until nothing is."""
    while coming := list(shown._coming.values()):
        yield from coming


def test_no_more_is_kept_than_the_limit_and_a_second_stage_sees_the_same(
    decoders: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "KEPT_BYTES", 8 * BYTES)
    with Decoded(shard(60)) as shown:
        for _ in range(2):
            for n, image_id in enumerate(shown):
                assert color(shown[image_id]) == COLORS[n % 4]
                assert sum(i.width * i.height * 4 for i in shown._kept.values()) <= 8 * BYTES
                assert len(shown._coming) <= 3
    assert 100 <= len(decoders.asked) <= 130  # Twice, but for what the first pass left behind.


def test_a_picture_beyond_the_limit_is_shown_and_not_kept(
    decoders: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "KEPT_BYTES", BYTES - 1)
    with Decoded(shard(4)) as shown:
        assert [color(shown[image_id]) for image_id in shown] == list(COLORS)
        assert not shown._kept


def test_hostile_pictures_leave_their_neighbours_as_they_were(decoders: Counting) -> None:
    hostile = {**bombs(), "empty": b"", "html": b"<html>", "cut": ordinary()["jpeg"][:700]}
    files: dict[str, Picture] = {}
    for number, (name, data) in enumerate(hostile.items()):
        files[f"good {number}"] = Picture(f"good {number}", ordinary()["png"], None)
        files[name] = Picture(name, data, None)
    files["gone"] = Picture("gone", None, None, "picture_missing", "gone is not there")
    files["good last"] = Picture("good last", ordinary()["png"], None)
    with Decoded(files) as shown:
        for image_id in shown:
            if image_id.startswith("good"):
                assert shown[image_id].tobytes() == cat().tobytes()
                assert shown.error(image_id) is None
        errors = {i: e for i in shown if (e := shown.error(i)) is not None}
        fillers = {np.asarray(shown[i]).tobytes() for i in errors}
    assert fillers == {bytes((127,)) * 336 * 336 * 3}
    kinds = Counter(error.kind for error in errors.values())
    assert kinds["picture_missing"] == 1
    assert errors["cut"].kind == errors["empty"].kind == errors["html"].kind == "picture_broken"
    assert errors["png header"].kind == "picture_too_large"
    assert str(errors["gone"]) == "gone is not there"


def test_a_broken_picture_is_decoded_once(decoders: Counting) -> None:
    files = {"x": Picture("x", b"no picture", None)}
    with Decoded(files) as shown:
        for _ in range(3):
            assert shown["x"].size == pictures.FILLER
            assert isinstance(shown.error("x"), PictureError)
    assert len(decoders.asked) == 1


def test_asking_for_the_error_alone_decodes(decoders: Counting) -> None:
    files = {"a": Picture("a", b"no picture", None), **shard(2)}
    with Decoded(files) as shown:
        assert [shown.error(i) is None for i in ("00001", "a", "00000")] == [True, False, True]


def test_many_threads_in_any_order_see_the_right_pictures(
    decoders: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "KEPT_BYTES", 6 * BYTES)
    order = [f"{n:05d}" for n in range(40)] * 8
    random.Random(0).shuffle(order)
    with Decoded(shard(40)) as shown, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda i: color(shown[i]), order))
        assert sum(i.width * i.height * 4 for i in shown._kept.values()) <= 6 * BYTES
        assert shown._bytes == len(shown._kept) * BYTES
    assert found == [COLORS[int(i) % 4] for i in order]


def test_what_is_no_picture_of_the_shard_is_a_key_error(decoders: Counting) -> None:
    with Decoded(shard(2)) as shown:
        assert "00001" in shown
        assert "x" not in shown
        assert shown.get("x") is None
        with pytest.raises(KeyError):
            shown.error("x")


def test_leaving_the_block_gives_up_what_is_under_way(decoders: Counting) -> None:
    with Decoded(shard(1000)) as shown:
        assert color(shown["00000"]) == "red"
    asked = len(decoders.asked)
    with Decoded(shard(4)) as other:
        assert [color(other[i]) for i in other] == list(COLORS)
    assert len(decoders.asked) == asked + 4


def test_a_decoder_that_does_not_start_fails_the_shard_and_blames_no_picture(
    monkeypatch: pytest.MonkeyPatch, decoders: Counting
) -> None:
    monkeypatch.setattr(picture_child, "MODULE", "lmmsteer.models.no_such_module")
    with Decoded(shard(3)) as shown:
        with pytest.raises(RunFailed, match="does not start"):
            _ = shown["00000"]
        with pytest.raises(RunFailed, match="does not start"):
            shown.error("00001")


def test_a_killer_among_many_costs_only_its_own_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(picture_child, "MODULE", "tests.models.deadly_process")
    files = shard(12)
    for image_id, word in (("00003", b"DIE"), ("00007", b"SLEEP")):
        files[image_id] = Picture(image_id, word, None)
    with closing(Decoders(Limits(seconds=2.0))) as made:
        monkeypatch.setattr(pictures, "shared_decoders", lambda: made)
        with Decoded(files) as shown:
            kinds = {i: e.kind for i in shown if (e := shown.error(i)) is not None}
            fine = [i for i in shown if i not in kinds]
            assert [color(shown[i]) for i in fine] == [COLORS[int(i) % 4] for i in fine]
    assert kinds == {"00003": "picture_decoder_died", "00007": "picture_timeout"}
