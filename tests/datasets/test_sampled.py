"""Samples of a data set: so many of every group, the same ones whatever else changes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from lmmsteer.config import SampleConfig
from lmmsteer.datasets.base import Sample, picture_of_bytes
from lmmsteer.datasets.sampled import sampled
from lmmsteer.errors import LmmsteerError


class People:
    """`count` people in sets of four; every fifth has no gender."""

    name = "people"

    def __init__(self, count: int = 100, shuffle: int | None = None) -> None:
        self.numbers = list(range(count))
        if shuffle is not None:
            random.Random(shuffle).shuffle(self.numbers)

    def samples(self) -> Iterator[Sample]:
        for n in self.numbers:
            labels = {} if n % 5 == 0 else {"gender": "man" if n % 3 else "woman"}
            extra = {"pair": f"p{n // 4 % 2}"}
            yield Sample(
                f"i{n}", lambda n=n: picture_of_bytes(f"i{n}", b""), f"s{n // 4}", labels, extra
            )


def drawn(source: Any, **keys: Any) -> list[Sample]:
    return list(sampled(source, SampleConfig(**keys)).samples())


def test_every_group_has_as_many_in_the_sources_order() -> None:
    found = drawn(People(), each=10, by=["gender"])
    assert Counter(s.labels["gender"] for s in found) == {"man": 10, "woman": 10}
    places = [int(s.image_id[1:]) for s in found]
    assert places == sorted(places)
    both = drawn(People(), each=3, by=["gender", "pair"])
    assert Counter((s.labels["gender"], s.extra["pair"]) for s in both) == {
        (gender, pair): 3 for gender in ("man", "woman") for pair in ("p0", "p1")
    }


def test_a_group_with_fewer_gives_all_and_without_columns_the_set_is_one_group() -> None:
    assert len(drawn(People(), each=1000, by=["gender"])) == 80
    assert len(drawn(People(), each=7)) == 7


def test_neither_the_order_of_files_nor_a_larger_number_changes_who_is_drawn() -> None:
    def names(source: Any, **keys: Any) -> set[str]:
        return {s.image_id for s in drawn(source, by=["gender"], **keys)}

    first = names(People(), each=10)
    assert names(People(shuffle=1), each=10) == first
    assert first < names(People(), each=12)
    assert names(People(), each=10, seed=1) != first


def test_chance_is_even() -> None:
    """A picture is in a sample of a tenth for a tenth of the seeds: within 5 sd of 400 draws."""
    counts = Counter(s.image_id for seed in range(400) for s in drawn(People(), each=10, seed=seed))
    assert all(abs(counts[f"i{n}"] - 40) < 5 * 6 for n in range(100))


def test_counterfactual_sets_come_whole() -> None:
    found = drawn(People(), each=5, by=["pair"], unit="group_id", seed=42)
    sizes = Counter(s.group_id for s in found)
    assert len(sizes) == 10
    assert set(sizes.values()) == {4}
    assert Counter(s.extra["pair"] for s in found) == {"p0": 20, "p1": 20}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"each": 0}, "sample.each=0 is not a positive number"),
        ({"each": 5, "unit": "set"}, "sample.unit=set is not known"),
        ({"by": ["gender"]}, r"sample.by=\['gender'\] says nothing without sample.each"),
        ({"seed": 3}, "sample.seed=3 says nothing"),
        ({"each": 5, "by": ["race"]}, "No picture of people has race, so none can be drawn"),
    ],
)
def test_what_draws_nothing_is_refused(keys: dict[str, Any], reason: str) -> None:
    with pytest.raises(LmmsteerError, match=reason):
        drawn(People(), **keys)


def test_without_a_number_the_source_is_itself() -> None:
    source = People()
    assert sampled(source, SampleConfig()) is source  # type: ignore[arg-type]
