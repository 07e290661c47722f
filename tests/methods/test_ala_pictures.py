"""What is read off pictures, for ALA and for the prompt that says it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.ala import Ala
from lmmsteer.methods.ala_pictures import PictureFeatures, fit_picture_classifier
from lmmsteer.methods.base import Context
from lmmsteer.methods.prompt_predicted import PromptPredicted
from tests.methods.ala_world import GENDER, facts, learning, pictures, requests
from tests.tiny import photographs, tiny_lmm


def test_what_a_picture_shows_is_the_target_of_its_rows(fitted):
    artifact, _ = fitted
    asked = requests("01", "10", "01", "11")
    context = Context(GENDER, artifact, pictures=pictures())
    (rule,) = Ala(lam=1.0).edit(tiny_lmm(), asked, context).rules
    assert rule.rows.shape == (4,)
    assert (rule.rows[[0, 2]] < -0.5).all()
    assert (rule.rows[[1, 3]] > 0.5).all()
    assert rule.rows[0] == rule.rows[2]
    lmm, tensors = tiny_lmm(), artifact.tensors
    pixels = lmm.prepare(pictures()["10"]).features["pixel_values"]
    with torch.no_grad():
        seen = lmm.model.model.get_image_features(pixels)
    seen = getattr(seen, "pooler_output", seen)[0].double().mean(0)  # 4.55 has a bare list.
    margin = tensors["picture.coefficients"][1].double() @ seen + tensors["picture.intercepts"][1]
    assert abs(rule.rows[1] - torch.tanh(margin / 2)) < 1e-5  # 2 sigmoid(x) - 1 = tanh(x / 2)


def test_the_engines_features_are_used_where_there_are_some(fitted):
    asked = []

    def features(lmm, prepared):
        asked.append(len(prepared))
        return [torch.full((3, lmm.d_model), float(at)) for at in range(len(prepared))]

    seen = PictureFeatures(tiny_lmm(), pictures(), features)
    assert seen.of(["01", "02", "01"])[:, 0].tolist() == [0, 1, 0]
    assert seen.of(["02"])[:, 0].tolist() == [1]
    assert asked == [2]
    artifact, _ = fitted
    context = Context(GENDER, artifact, pictures=pictures(), features=features)
    assert Ala().edit(tiny_lmm(), requests("01", "02"), context).rules[0].rows.shape == (2,)


def test_the_prompt_says_what_the_picture_is_predicted_to_show():
    method = PromptPredicted()
    artifact = method.fit(tiny_lmm(), learning())
    method.check(artifact, facts())
    context = Context(replace(GENDER, name="gender_shown"), artifact, pictures=pictures())
    prompts = method.edit(tiny_lmm(), requests("01", "10"), context).prompts
    assert prompts == (
        "The gender shown of the person in the image is woman. What is {this}?",
        "The gender shown of the person in the image is man. What is {this}?",
    )
    with pytest.raises(LmmsteerError, match="no place for the prompt"):
        PromptPredicted(template="{predicted}")
    with pytest.raises(LmmsteerError, match="another model"):
        method.check(artifact, facts(digest="0" * 64))
    with pytest.raises(LmmsteerError, match="not fitted"):
        method.edit(tiny_lmm(), requests("01"), Context())


def test_the_picture_classifier_is_scikit_learns_on_standardized_features():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator) * torch.tensor([1, 9, 0.1, 3, 1, 0]) + 5
    for classes in (2, 3):
        y = [at % classes for at in range(40)]
        known = fit_picture_classifier(x, y, classes)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(x.double().numpy(), y)
        wanted = model.predict_proba(x.double().numpy())
        assert np.allclose(known.probabilities(x).numpy(), wanted, atol=1e-5)


def test_photographs_of_any_size_have_a_feature():
    shown = photographs()
    found = PictureFeatures(tiny_lmm(), shown).of(list(shown))
    assert found.shape == (len(shown), tiny_lmm().d_model)
    alone = PictureFeatures(tiny_lmm(), shown).of(["cat"])
    assert torch.equal(found[list(shown).index("cat")], alone[0])
