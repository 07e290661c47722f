"""What directions can be asked for, and what is refused before weights are loaded."""

import math
from dataclasses import replace

import pytest
import torch

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods import METHODS
from lmmsteer.methods.applying import Applying
from lmmsteer.methods.artifact import Artifact
from lmmsteer.methods.base import Context
from tests.methods.directions_world import (
    FACTS,
    PICTURES,
    REQUESTS,
    WIDTH,
    artifact,
    everywhere,
)
from tests.tiny import tiny_lmm


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"mode": "rotate"}, "mode=rotate"),
        ({"alpha": -0.1}, "alpha=-0.1"),
        ({"alpha": 2.0, "mode": "affine"}, "alpha=2.0"),
        ({"alpha": math.inf, "mode": "add"}, "alpha=inf"),
        ({"alpha": math.nan}, "alpha=nan"),
        ({"scope": []}, "scope"),
        ({"scope": ["answers"]}, "scope"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(wrong, named):
    with pytest.raises(LmmsteerError, match=named):
        Applying(**wrong)
    assert Applying(alpha=-7.0, mode="add").alpha == -7


def test_alpha_null_is_the_strength_that_the_fit_has_chosen():
    fitted = artifact()
    chosen = replace(fitted, metadata={"layer": 1, "alpha": 0.5, "judged_as": "project"})
    assert everywhere(chosen, alpha=None).alpha == 0.5
    for other, mode in ((fitted, "project"), (chosen, "add")):
        with pytest.raises(LmmsteerError, match="names no strength") as error:
            everywhere(other, alpha=None, mode=mode)
        assert f"method.judged_as={mode}" in error.value.mend


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"layers": "2-4"}, "names layer 4"),
        ({"mode": "affine"}, "FILE has no tensor `mean`"),
        ({"mode": "add"}, "FILE does not say which layer"),
        ({"gate": {"threshold": 0.1}}, "no layer of this model: None of 4"),
        ({"gate": {"threshold": 0.1, "layer": 1}}, "FILE has no tensor `candidates`"),
        ({"gate": {"threshold": 0.1, "layer": 1, "tensor": "short"}}, "FILE has no .* fitting"),
        ({"alpha": None}, "FILE names no strength"),
    ],
)
def test_an_artifact_that_lacks_what_the_parameters_need_is_refused_before_weights_are_loaded(
    parameters, problem
):
    bare = Artifact({"directions": torch.eye(WIDTH)[:1], "short": torch.ones(3)})
    for name in ("ablation", "steered_dataset"):
        METHODS[name]().check(bare, FACTS, "FILE")
        with pytest.raises(LmmsteerError, match=problem):
            METHODS[name](**parameters).check(bare, FACTS, "FILE")
        with pytest.raises(LmmsteerError, match="FILE holds directions of shape"):
            METHODS[name]().check(bare, replace(FACTS, d_model=16), "FILE")
    METHODS["steered_dataset"](**parameters).check(bare, replace(FACTS, n_layers=None))


def test_what_is_applied_defines_no_fit():
    for name in ("ablation", "steered_dataset", "random_direction"):
        assert METHODS[name].applied == {"alpha", "mode", "layers", "scope", "keep_norm", "gate"}
        assert METHODS[name]().touches == {"residual"}
        assert "picture_scope" in METHODS[name](scope=["prompt", "generated"]).touches


def test_random_directions_can_stand_against_every_way_to_apply_one():
    lmm, context = tiny_lmm(), Context(pictures=PICTURES)
    some = METHODS["random_direction"](seed=3, layers=[1], scope=["generated"])
    found = some.edit(lmm, REQUESTS, context).residual
    assert found.scope == {"generated"}
    assert not found.sets[0, 0].any()
    drawn = found.sets[0, 1, 0]
    added = replace(some, mode="add", alpha=4.0).edit(lmm, REQUESTS, context).residual
    assert torch.allclose(added.shifts[0, 1], 4 * drawn)
    for wrong in (
        {"mode": "affine"},
        {"alpha": None},
        {"gate": {"threshold": 0.1}},
        {"mode": "add", "layers": None},
    ):
        with pytest.raises(LmmsteerError, match="random directions have none"):
            replace(some, **wrong)
