from hypothesis import given, settings
from hypothesis import strategies as st

from lmmsteer import repeats


class Twin(str):
    """A name whose hash many others share."""

    def __hash__(self) -> int:
        return len(self)

    __eq__ = str.__eq__


def first_repeated(names: list[str]) -> str | None:
    return next((name for at, name in enumerate(names) if name in names[:at]), None)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab", max_size=4), max_size=12))
def test_the_first_name_that_occurs_again_is_found(names: list[str]) -> None:
    assert repeats.count(lambda: names) == (len(names), first_repeated(names))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab", max_size=4), max_size=12))
def test_names_of_one_hash_are_not_taken_for_one_another(names: list[str]) -> None:
    twins = [Twin(name) for name in names]
    assert repeats.count(lambda: twins) == (len(names), first_repeated(names))


def test_names_of_surrogates_and_nothing_are_names() -> None:
    names = ["", "\ud800", "\x00", "\ud800"]
    assert repeats.count(lambda: names) == (4, "\ud800")
