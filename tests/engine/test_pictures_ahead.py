import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lmmsteer.engine.pictures import AHEAD, Ahead, FeatureCache
from lmmsteer.models.lmm import PreparedPicture
from tests.tiny import photographs, tiny_lmm


class Slow:
    """An LMM that prepares pictures no faster than it is let, and says which."""

    def __init__(self, seconds=0.0):
        self.made, self.seconds, self.let = [], seconds, threading.Event()
        self.let.set()

    def prepare(self, picture):
        self.let.wait(10)
        time.sleep(self.seconds)
        self.made.append(picture)
        return picture


def settled(lmm, count):
    """Wait until so many are prepared; then a moment more, in which none may follow."""
    deadline = time.monotonic() + 10
    while len(lmm.made) < count and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(0.05)
    return len(lmm.made)


def names(count):
    return [f"{n:03d}" for n in range(count)]


def ahead(lmm, order):
    return Ahead(lmm, {name: name for name in order}, order)


def test_no_more_than_so_many_are_prepared_ahead_and_each_in_its_turn():
    lmm, order = Slow(), names(3 * AHEAD)
    pictures = ahead(lmm, order)
    assert settled(lmm, AHEAD) == AHEAD
    for taken, name in enumerate(order, 1):
        assert pictures.take() == name
        assert len(lmm.made) <= taken + AHEAD
    assert lmm.made == order
    pictures.close()


def test_a_picture_that_is_taken_several_times_in_a_row_is_prepared_once():
    lmm = Slow()
    pictures = ahead(lmm, ["a", "a", "a", "b", "b"])
    assert [pictures.take() for _ in range(5)] == ["a", "a", "a", "b", "b"]
    assert lmm.made == ["a", "b"]
    pictures.close()


def test_pictures_that_come_again_after_many_others_are_there_and_never_too_many_are_held():
    lmm, order = Slow(), names(3 * AHEAD) * 2
    pictures = ahead(lmm, order)
    for taken, name in enumerate(order, 1):
        assert pictures.take() == name
        assert len(lmm.made) <= taken + AHEAD
    pictures.close()


def test_the_wait_is_the_time_for_which_a_picture_was_not_there():
    lmm = Slow(seconds=0.05)
    pictures = ahead(lmm, names(3))
    for _ in range(3):
        pictures.take()
    slow = pictures.wait
    assert slow > 0.1
    pictures.close()
    quick = Slow()
    pictures = ahead(quick, names(3))
    settled(quick, 3)
    for _ in range(3):
        pictures.take()
    assert pictures.wait < slow
    pictures.close()


def test_a_picture_that_cannot_be_prepared_says_why_when_its_turn_comes():
    lmm = Slow()
    pictures = Ahead(lmm, {"a": "a"}, ["a", "missing"])
    assert pictures.take() == "a"
    with pytest.raises(KeyError, match="missing"):
        pictures.take()
    pictures.close()


def test_closing_prepares_no_more():
    lmm = Slow()
    lmm.let.clear()
    pictures = ahead(lmm, names(AHEAD))
    pictures.close()
    lmm.let.set()
    time.sleep(0.05)
    assert len(lmm.made) <= 1


def features(tokens):
    return torch.zeros(tokens)


def test_the_cache_keeps_to_its_bytes_and_drops_what_was_used_longest_ago():
    cache = FeatureCache(limit=3 * 40)
    for key in "abc":
        cache.put(key, features(10))
    assert cache.size == 120
    assert cache.get("a") is not None
    cache.put("d", features(10))
    assert [cache.get(key) is None for key in "abcd"] == [False, True, False, False]
    assert (len(cache), cache.size) == (3, 120)
    cache.put("e", features(25))
    assert cache.size <= 120
    assert cache.get("e") is not None
    cache.put("f", features(31))  # More than all there is.
    assert cache.get("f") is None
    assert cache.get("e") is not None
    cache.put("e", features(25))
    assert cache.size == sum(cache.get(k).nbytes for k in "abcde" if cache.get(k) is not None)
    cache.clear()
    assert (len(cache), cache.size) == (0, 0)


def test_a_pictures_key_is_its_pixels_its_model_and_the_dtype():
    cache, lmm = FeatureCache(), tiny_lmm()
    cat, again = (lmm.prepare(photographs()["cat"]) for _ in range(2))
    other = lmm.prepare(photographs()["rocket"])
    assert cache.key(lmm, cat) == cache.key(lmm, again)
    assert cache.key(lmm, cat) != cache.key(lmm, other)
    for change in ({"digest": "x"}, {"dtype": torch.bfloat16}):
        changed = {"digest": lmm.digest, "dtype": lmm.dtype, **change}
        assert cache.key(SimpleNamespace(**changed), cat) != cache.key(lmm, cat)


def test_pixels_of_equal_bytes_in_another_shape_are_another_picture():
    cache, lmm = FeatureCache(), tiny_lmm()
    pixels = torch.from_numpy(np.arange(12, dtype=np.float32))
    one, two = (PreparedPicture({"p": pixels.view(s)}, 1, "") for s in ((3, 4), (4, 3)))
    assert cache.key(lmm, one) != cache.key(lmm, two)
