from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from lmmsteer.engine.edit import Edit
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods import METHODS
from lmmsteer.methods.artifact import Artifact
from lmmsteer.methods.base import Context
from lmmsteer.methods.random_direction import random_directions
from lmmsteer.methods.words import mentions, spellings
from lmmsteer.schema import Request
from tests.tiny import tiny_lmm

CONF = Path(__file__).parents[2] / "conf" / "method"
REQUESTS = [Request("0" * 32, "a", "p", "What?", 0), Request("1" * 32, "b", "q", "Why?", 0)]


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_yaml_has_its_parameters_with_their_defaults(name):
    shown = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert next(iter(shown)) == "name"
    assert shown == asdict(METHODS[name]())
    typed = OmegaConf.merge(OmegaConf.structured(METHODS[name]), shown)
    assert OmegaConf.to_container(typed) == shown


def test_unsteered_is_the_empty_edit():
    assert METHODS["unsteered"]().edit(tiny_lmm(), REQUESTS, Context()) == Edit()


def test_a_prefix_and_a_suffix_stand_around_the_prompt():
    method = METHODS["prompt"](prefix="Be fair.", suffix="Please.")
    assert method.edit(tiny_lmm(), REQUESTS, Context()).prompts == (
        "Be fair. What? Please.",
        "Be fair. Why? Please.",
    )
    assert replace(method, prefix="", suffix="").edit(tiny_lmm(), REQUESTS, Context()).prompts == (
        "What?",
        "Why?",
    )


def test_an_ablation_removes_its_artifact_and_nothing_else():
    directions = torch.eye(32)[:2]
    context = Context(artifact=Artifact({"directions": directions}))
    for name in ("ablation", "steered_dataset"):
        edit = METHODS[name](alpha=0.5).edit(tiny_lmm(), REQUESTS, context)
        assert edit.prompts is None
        assert torch.equal(edit.residual.directions, directions)
        assert edit.residual.alpha == 0.5
        with pytest.raises(LmmsteerError, match=r"method\.alpha=1\.5"):
            METHODS[name](alpha=1.5)
        with pytest.raises(LmmsteerError, match="without directions"):
            METHODS[name]().edit(tiny_lmm(), REQUESTS, Context())


def test_random_directions_are_orthonormal_and_follow_from_the_seed_alone():
    for k in (1, 5, 32):
        edit = METHODS["random_direction"](seed=3, k=k).edit(tiny_lmm(), REQUESTS, Context())
        a = edit.residual.directions
        assert a.shape == (k, 32)
        assert torch.allclose(a @ a.T, torch.eye(k), atol=1e-5)
    assert torch.equal(random_directions(3, 5, 32), random_directions(3, 5, 32))
    assert (random_directions(3, 1, 512) @ random_directions(4, 1, 512).T).abs() < 0.2
    with pytest.raises(LmmsteerError, match=r"method\.k=33"):
        METHODS["random_direction"](k=33).edit(tiny_lmm(), REQUESTS, Context())


def test_random_directions_favour_no_coordinate():
    many = torch.cat([random_directions(seed, 2, 6) for seed in range(1500)])
    assert many.mean(0).abs().max() < 4 / (6 * 3000) ** 0.5
    assert (many.square().mean(0) - 1 / 6).abs().max() < 0.02


def test_spellings_are_the_tokens_that_are_the_word_in_any_case_with_or_without_a_space():
    tokenizer = tiny_lmm().tokenizer
    words = ["person", "Is", "he smiles", "a"]
    found = spellings(tokenizer, words)
    heads = {"person", "is", "he", "a"}
    assert {tokenizer.decode([i]).strip(" ").lower() for i in found} <= heads
    for spelled in (" person", " is", "Is", " he", " a", "A"):
        ids = tokenizer.encode(spelled, add_special_tokens=False)
        if len(ids) == 1:
            assert ids[0] in found
    assert len(tokenizer.encode(" a", add_special_tokens=False)) == 1
    assert spellings(tokenizer, ["xylophone"]) == []


def test_mentions_count_whole_words_and_phrases_in_any_case():
    text = "He, he and SHE saw the old man's mane; an African-American woman. He"
    assert mentions(text, ["he"]) == 3
    assert mentions(text, ["she", "woman", "man"]) == 2
    assert mentions(text, ["African American", "old"]) == 2
    assert mentions(text, ["man's"]) == 1
    assert mentions("", ["he"]) == mentions(text, []) == 0
