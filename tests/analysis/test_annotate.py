"""Bigrams out, labels in, and round again."""

from __future__ import annotations

import csv
from pathlib import Path

import polars as pl
import pytest

import analysis
from analysis import Analysis, annotate
from analysis.annotate import Annotating
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet
from tests.conftest import Command

SAID = (
    "a black cat and a black dog",
    "black cat",
    "the white house, black",
    "Black cat. White cat",
)
WORDS = {"race": ["black", "white"], "age": ["old"]}


def rows(path: Path) -> list[tuple[str, str, int, str]]:
    with path.open(newline="") as file:
        read = list(csv.DictReader(file))
    return [(r["bigram"], r["attribute"], int(r["freq"]), r["label"]) for r in read]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = build.Output(tmp_path / "out")
    made.manifest([build.row(i, f"p{i}") for i in range(4)])
    made.cell("unsteered", "none", lambda row, _: SAID[int(row.image_id[1:])])
    return LocalStore(tmp_path / "out")


def test_the_most_frequent_bigrams_are_written_with_room_for_a_label(store: LocalStore) -> None:
    assert annotate.run(store, Annotating(attributes=WORDS), quiet) == ["scores/bigrams.csv"]
    assert rows(store.folder / "scores/bigrams.csv") == [
        ("black cat", "race", 3, ""),
        ("black <end>", "race", 1, ""),
        ("black dog", "race", 1, ""),
        ("white cat", "race", 1, ""),
        ("white house", "race", 1, ""),
    ]
    annotate.run(store, Annotating(attributes=WORDS, top=1), quiet)
    assert len(rows(store.folder / "scores/bigrams.csv")) == 1


def test_labels_are_kept_and_decide_what_counts(store: LocalStore) -> None:
    annotate.run(store, Annotating(attributes=WORDS), quiet)
    path = store.folder / "scores/bigrams.csv"
    text = path.read_text().replace("black cat,race,3,", "black cat,race,3,unrelated")
    path.write_text(text)
    annotate.run(store, Annotating(attributes=WORDS, top=2), quiet)
    assert rows(path) == [
        ("black cat", "race", 3, "unrelated"),
        ("black <end>", "race", 1, ""),
        ("black dog", "race", 1, ""),
    ]
    other = store.folder / "more.csv"
    other.write_text("bigram,attribute,freq,label\nwhite tie,race,9,related\n")
    annotate.run(store, Annotating(attributes=WORDS, top=1, bigrams=str(other)), quiet)
    assert ("white tie", "race", 0, "related") in rows(path)
    settings = Analysis(attributes=WORDS, bigrams=str(path), bootstrap=10)
    analysis.run(store, ["mentions"], settings, quiet)
    scores = pl.read_parquet(store.folder / "scores/mentions.parquet")
    race = scores.filter((pl.col("attribute") == "race") & (pl.col("metric") == "per_1k"))
    assert race["value"].to_list() == [1000.0]  # 7 bigrams less the 3 black cats, of 4 answers.


def test_the_command_says_what_is_next(store: LocalStore, command: Command) -> None:
    asked = ("analysis=annotate", "+analysis.attributes.race=[black]", f"out={store.root}")
    code, out, _ = command("analyze", *asked)
    assert code == 0
    assert "analysis.bigrams=" in out
    code, _, err = command("analyze", *asked, "analysis.top=0")
    assert (code, "analysis.top=0 is too small" in err) == (2, True)


def test_unfinished_output_is_refused(store: LocalStore) -> None:
    record = store.folder / "manifest/dataset=people/_manifest.json"
    record.write_text('{"rows": 9, "images": 9}')
    with pytest.raises(LmmsteerError, match="not finished"):
        annotate.run(store, Annotating(), quiet)
