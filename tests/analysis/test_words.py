from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.words import END, Targets, read_annotations, shipped, split, targets, words_of
from lmmsteer.errors import LmmsteerError


def by_letters(text: str) -> list[str]:
    """Lower-cased runs of letters, digits and apostrophes, letter by letter."""
    words, word = [], ""
    for letter in text.lower() + " ":
        if letter.isalpha() or letter.isnumeric() or letter in "'’":
            word += "'" if letter == "’" else letter
        elif word:
            words.append(word)
            word = ""
    return words


def in_polars(text: str) -> list[str]:
    return pl.DataFrame({"text": [text]}).select(words_of(pl.col("text"))).item().to_list()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The dark-skinned Man's hat, 2 m.", ["the", "dark", "skinned", "man's", "hat", "2", "m"]),
        ("snake_case\nÉcole don’t", ["snake", "case", "école", "don't"]),
        ("...", []),
        ("", []),
    ],
)
def test_words_are_lower_cased_runs_of_letters_digits_and_apostrophes(
    text: str, words: list[str]
) -> None:
    assert in_polars(text) == split(text) == words


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(codec="latin-1") | st.sampled_from("’'- éñ漢я1²")))
def test_both_ways_to_split_agree_with_a_letter_by_letter_reading(text: str) -> None:
    assert in_polars(text) == by_letters(text)
    assert split(text) == by_letters(text)


def test_without_annotations_every_bigram_of_a_target_word_counts() -> None:
    found = targets("age", ["Young", "old"], None, "deny")
    assert found.counts("young", "man")
    assert found.counts("old", END)
    assert not found.counts("man", "young")


def test_a_target_of_two_words_is_a_bigram_of_its_own() -> None:
    found = targets("race", ["middle eastern", "white"], None, "deny")
    assert found.counts("middle", "eastern")
    assert not found.counts("middle", "aged")
    assert not found.counts("eastern", "man")


def test_deny_drops_the_unrelated_and_allow_keeps_the_related_only() -> None:
    labels = {"black man": "related", "black coat": "unrelated", "black cat": ""}
    deny = targets("race", ["black"], labels, "deny")
    allow = targets("race", ["black"], labels, "allow")
    seen = ["man", "coat", "cat", "swan"]
    assert [deny.counts("black", second) for second in seen] == [True, False, True, True]
    assert [allow.counts("black", second) for second in seen] == [True, False, False, False]


def test_the_expression_counts_what_the_function_counts() -> None:
    found = Targets(
        frozenset({"a", "b"}), frozenset({"c d"}), frozenset({"a x", "c d"}), frozenset({"b x"})
    )
    bigrams = [(first, second) for first in "abcx" for second in "dx"]
    frame = pl.DataFrame(bigrams, schema=["first", "second"], orient="row")
    assert frame.select(found.filter()).to_series().to_list() == [
        found.counts(*bigram) for bigram in bigrams
    ]


def test_targets_survive_json() -> None:
    for allowed in (None, frozenset({"a b"})):
        found = Targets(frozenset({"a"}), frozenset(), allowed, frozenset({"a c"}))
        assert Targets.from_json(found.to_json()) == found


def test_a_target_of_three_words_is_refused_by_name() -> None:
    with pytest.raises(LmmsteerError, match="person of colour"):
        targets("race", ["person of colour"], None, "deny")


def test_an_annotation_file_is_read_by_attribute(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        "bigram,attribute,freq,label\nBlack  Man,race,7,related\nman <end>,gender,3,\n"
        "old town,age,2,Unrelated\n",
        encoding="utf-8-sig",
    )
    assert read_annotations(path) == {
        "race": {"black man": "related"},
        "gender": {"man <end>": ""},
        "age": {"old town": "unrelated"},
    }


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("bigram,attribute\na b,age\n", "label"),
        ("bigram,attribute,label\na b,age,maybe\n", "line 2"),
        ("bigram,attribute,label\na b,age,related\nabc,age,related\n", "line 3"),
    ],
)
def test_a_wrong_annotation_file_is_refused_where_it_is_wrong(
    tmp_path: Path, text: str, named: str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(LmmsteerError, match=named):
        read_annotations(path)


def test_a_missing_annotation_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LmmsteerError, match=r"none\.csv"):
        read_annotations(tmp_path / "none.csv")


def test_every_attribute_but_none_ships_lower_case_single_words() -> None:
    lists = shipped()
    assert set(lists) == {"gender", "age", "body_type", "skin_tone", "race"}
    for words in lists.values():
        assert all(isinstance(word, str) and split(word) == [word] for word in words)
        assert len(words) == len(set(words))
