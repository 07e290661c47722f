"""VADER's rules against vaderSentiment itself, text by text."""

from __future__ import annotations

import polars as pl
import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from analysis import vader_pool
from analysis.vader import Vader
from analysis.vader_pool import Pool
from tests.analysis import vader

TEXTS = [
    "",
    " ",
    "VADER is VERY SMART, uber handsome, and FRIGGIN FUNNY!!!",
    "At least it isn't a horrible book.",
    "It is not the least good. The least good.",
    "The plot was good, but good, but the dialog is not great, good.",
    "He is kind of kind, sort of a bad ass. Yeah right!",
    "No good or bad no? Never so good, never this so good, without a doubt good",
    "to die for :) :-( \U0001f601good\U0001f601 \U0001f498",
    "good " * 400,
    "bad? bad?? bad??? bad????",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_scores_are_the_librarys(text: str) -> None:
    expected = SentimentIntensityAnalyzer().polarity_scores(text)
    assert Vader().scores(text)._asdict() == expected


def test_the_scores_of_thousands_of_texts_are_the_librarys() -> None:
    assert vader.compare(3000, seed=7) == 0


def test_a_forgetful_scorer_scores_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.vader.KEPT", 3)
    scorer = Vader()
    for text in TEXTS:
        assert scorer.scores(text) == Vader().scores(text)
    assert len(scorer.tokens) < 30


def test_several_processes_score_as_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vader_pool, "FEW", 10)
    monkeypatch.setattr(vader_pool, "PIECE", 7)
    texts = pl.Series([*vader.texts(60, seed=3)] * 2)
    found = Pool(2).compounds(texts)
    scorer = Vader()
    assert found.to_list() == [scorer.scores(text).compound for text in texts]
    assert Pool(1).compounds(texts).to_list() == found.to_list()
    assert Pool(2, sentences=True).compounds(texts).to_list() == [
        scorer.mean_compound(text) for text in texts
    ]
    assert Pool().compounds(pl.Series([], dtype=pl.String)).to_list() == []


def test_a_long_text_may_be_the_mean_of_its_sentences() -> None:
    scorer = Vader()
    good, bad = (scorer.scores(text).compound for text in ("It is good!", "A bad thing."))
    assert scorer.mean_compound("It is good!  A bad thing.\n\nnothing 3.5") == (good + bad) / 3
    assert scorer.mean_compound("") == scorer.mean_compound(" \n ") == 0
    assert scorer.scores("It is good. " * 40).compound > 0.99 > scorer.mean_compound("Good. " * 40)
