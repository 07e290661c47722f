"""What ALA learns, and from what."""

from dataclasses import replace

import pytest
import torch

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.ala import Ala
from lmmsteer.methods.ala_training import train_text_classifier
from lmmsteer.methods.artifact import Artifact
from lmmsteer.methods.base import Context
from tests.methods.ala_world import FAST, GENDER, facts, learning, lexicon_ala, pictures, requests
from tests.tiny import tiny_lmm


def test_texts_of_a_file_are_learned_from_as_published_and_own_answers_faster(
    monkeypatch, tmp_path
):
    seen = []

    def spy(texts, vocab_size, classes, how, *_):
        seen.append((how.epochs, how.lr))
        return train_text_classifier(texts, vocab_size, classes, replace(how, epochs=1))

    monkeypatch.setattr("lmmsteer.methods.ala.train_text_classifier", spy)
    file = tmp_path / "texts.csv"
    file.write_text("text,label\n" + "the man,man\nA woman,woman\n" * 5)
    for given in ({}, {"texts": str(file)}, {"texts": str(file), "epochs": 10}, {"lr": 0.5}):
        Ala(beta_steps=1, **given).fit(tiny_lmm(), learning())
    assert seen == [(10, 1e-3), (3, 2e-5), (10, 2e-5), (10, 0.5)]


def test_a_fit_learns_from_the_models_own_answers_who_is_there(fitted):
    artifact, said = fitted
    meta = artifact.metadata
    assert meta["classes"] == ["woman", "man"]
    assert meta["attribute"] == "gender"
    assert meta["model_digest"] == tiny_lmm().digest
    assert meta["texts"] == 48
    assert meta["pictures"] == 12
    assert meta["text_accuracy"] == meta["picture_accuracy"] == 1.0
    beta = artifact.tensors["beta"]
    assert beta.shape == (1, tiny_lmm().vocab_size)
    assert beta[0, 200] == 1.0  # What only men's answers hold, and
    assert beta[0, 100] == -1.0  # what only women's do.
    unsaid = torch.ones(beta.shape[1], dtype=torch.bool)
    unsaid[[100, 200, *range(50, 57), *range(60, 65)]] = False
    assert beta[0, unsaid].abs().max() == 0
    assert any("48 answers" in line for line in said)
    assert any("100%" in line for line in said)


def test_the_same_fit_has_the_same_bytes(fitted):
    artifact, _ = fitted
    assert Ala(**FAST).fit(tiny_lmm(), learning()).to_bytes() == artifact.to_bytes()
    back = Artifact.from_bytes(artifact.to_bytes())
    assert back.metadata == {k: v for k, v in artifact.metadata.items() if v is not None}


def test_with_a_lexicon_the_pictures_alone_are_learned_from(fitted):
    method = lexicon_ala(target="picture")
    artifact = method.fit(tiny_lmm(), learning(answer=None))
    assert set(artifact.tensors) == {"picture.coefficients", "picture.intercepts"}
    method.check(artifact, facts())
    context = Context(GENDER, artifact, pictures=pictures())
    (rule,) = method.edit(tiny_lmm(), requests("01", "10"), context).rules
    assert rule.rows[0] < -0.5 < 0.5 < rule.rows[1]
    with pytest.raises(LmmsteerError, match="no text classifier"):
        Ala().check(artifact, facts())
    method.check(fitted[0], facts())


def test_texts_of_a_file_need_no_labelled_pictures(tmp_path):
    file = tmp_path / "texts.csv"
    rows = ["text,label", *["the man is old,toxic", "She is young,fine"] * 6, "What?,other"]
    file.write_text("\n".join(rows))
    method = Ala(target=-1.0, texts=str(file), classes=["fine", "toxic"], **FAST)
    artifact = method.fit(tiny_lmm(), learning(labels={}, answer=None))
    assert artifact.metadata["texts"] == 12
    assert "picture.coefficients" not in artifact.tensors
    method.check(artifact, facts())
    with pytest.raises(LmmsteerError, match="no picture classifier"):
        replace(method, target="picture").check(artifact, facts())
    with pytest.raises(LmmsteerError, match="Fewer than two pictures"):
        replace(method, target="picture").fit(tiny_lmm(), learning(labels={}))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"labels": {}}, "0 of the two classes"),
        ({"labels": {"01": "man", "02": "man"}}, "1 of the two classes"),
        ({"labels": {"01": "man", "10": "woman"}}, "Fewer than two pictures"),
    ],
)
def test_a_data_set_that_does_not_say_who_is_who_is_refused(given, reason):
    with pytest.raises(LmmsteerError, match=reason):
        Ala(**FAST).fit(tiny_lmm(), learning(**given))


def test_classes_that_no_picture_is_labelled_with_are_refused():
    with pytest.raises(LmmsteerError, match="labelled female"):
        Ala(classes=["female", "man"]).fit(tiny_lmm(), learning())
