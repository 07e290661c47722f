"""ALA's parameters: defaults, presets, and what is refused."""

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from analysis.vqa import FEMALE, MALE
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.ala import Ala
from lmmsteer.methods.ala_cross import AlaCross
from lmmsteer.methods.base import Context
from lmmsteer.methods.prompt_predicted import PromptPredicted
from tests.methods.ala_world import learning, lexicon_ala, requests
from tests.tiny import tiny_lmm

CONF = Path(__file__).parents[2] / "conf" / "method"


@pytest.mark.parametrize("name", ["ala", "ala_cross", "prompt_predicted"])
def test_a_yaml_has_the_parameters_with_their_defaults(name):
    kind = {"ala": Ala, "ala_cross": AlaCross, "prompt_predicted": PromptPredicted}[name]
    shown = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert next(iter(shown)) == "name"
    assert shown == asdict(kind())
    typed = OmegaConf.merge(OmegaConf.structured(kind), shown)
    assert OmegaConf.to_container(typed) == shown


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("ala_ba", {}),
        ("ala_n", {"target": 0.0}),
        ("ala_toxicity", {"target": -1.0, "classes": ["non-toxic", "toxic"], "epochs": 10}),
    ],
)
def test_a_preset_is_ala_with_other_parameters(name, differs):
    shown = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert shown.pop("uses") == "ala"
    assert Ala(**shown) == Ala(name=name, **differs)


def test_the_shipped_lexicon_is_the_words_that_misgendering_is_detected_by():
    shown = yaml.safe_load((CONF / "ala_n_lexicon.yaml").read_text())
    assert shown["lexicon"] == {**dict.fromkeys(MALE, 1), **dict.fromkeys(FEMALE, -1)}
    assert shown.pop("uses") == "ala"
    assert not Ala(**shown).needs_artifact


def test_a_lexicon_with_a_number_learns_nothing_and_takes_nothing_from_an_attribute():
    method = lexicon_ala()
    assert not method.needs_artifact
    assert not method.fitted
    assert method.attribute_given
    for other in (Ala(), Ala(target=0.0), lexicon_ala(target="picture")):
        assert other.needs_artifact
        assert other.fitted
        assert not other.attribute_given
    with pytest.raises(LmmsteerError, match="nothing to fit"):
        method.fit(tiny_lmm(), learning())
    with pytest.raises(LmmsteerError, match="not fitted"):
        Ala().edit(tiny_lmm(), requests("a"), Context())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"lam": -1.0}, r"method\.lam=-1\.0"),
        ({"tau": 2.0}, r"method\.tau=2\.0"),
        ({"target": "image"}, r"method\.target=image"),
        ({"target": 1.5}, r"method\.target=1\.5"),
        ({"target": True}, r"method\.target=True"),
        ({"classifier": "words"}, r"method\.classifier=words"),
        ({"classifier": "lexicon"}, "no words"),
        ({"lexicon": {"he": 1.0}}, "does not read it"),
        ({"preset": "ours"}, r"method\.preset=ours"),
        ({"preset": "code", "lam": 3.0}, "contradict"),
        ({"classes": ["man"]}, "two classes"),
        ({"classes": ["man", "man"]}, "two classes"),
        ({"beta_agg": "max"}, r"method\.beta_agg=max"),
        ({"gate": "open"}, r"method\.gate=open"),
        ({"epochs": 0}, r"method\.epochs=0"),
        ({"dropout": 1.0}, r"method\.dropout=1\.0"),
    ],
)
def test_parameters_that_cannot_be_are_refused(given, reason):
    with pytest.raises(LmmsteerError, match=reason):
        Ala(**given)


def test_a_lexicon_tells_no_three_classes_apart():
    with pytest.raises(LmmsteerError, match="two classes apart"):
        lexicon_ala(classes=["a", "b", "c"])


def test_presets_set_lambda_and_tau():
    paper, code = Ala(preset="paper"), Ala(preset="code")
    assert (paper.lam, paper.tau, code.lam, code.tau) == (2.0, 0.1, 5.0, 0.5)
    assert Ala(**asdict(code)) == code


def test_terms_that_cannot_be_are_refused():
    for terms in ([], "gender", ["gender"]):
        with pytest.raises(LmmsteerError, match=r"method\.terms"):
            AlaCross(terms=terms)
    with pytest.raises(LmmsteerError, match="no terms"):
        AlaCross().edit(tiny_lmm(), requests("a"), Context())
