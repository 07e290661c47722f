"""Edits on the shared engine: what changes nothing, what stays, what does not."""

from dataclasses import replace

import pytest
import torch

from lmmsteer.engine.edit import Bias, Edit, FeatureEdit, ResidualEdit
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from tests.engine.runs import NEW, direction, rows, run, tokens, unsteered

NOTHING = {
    "the empty edit": Edit(),
    "alpha 0": Edit(residual=ResidualEdit(direction(), alpha=0.0)),
    "a zero direction": Edit(residual=ResidualEdit(torch.zeros(1, 32))),
    "zero directions by row": Edit(residual=ResidualEdit(torch.zeros(2, 2, 32), of=(0, 1) * 6)),
    "features as they are": Edit(features=FeatureEdit(torch.ones(32), torch.zeros(32))),
    "no bias": Edit(rules=(Bias(torch.zeros(400)),)),
    "the same prompts": Edit(prompts=tuple(r.prompt for r in rows())),
}


@pytest.mark.parametrize("edit", NOTHING.values(), ids=NOTHING)
@pytest.mark.parametrize("engine", [Shared, Reference])
def test_an_edit_that_changes_nothing_gives_the_unsteered_tokens(engine, edit):
    assert tokens(engine(5), edit=edit) == unsteered()


def test_a_share_of_a_direction_is_removed_as_the_reference_engine_removes_it():
    edit = Edit(residual=ResidualEdit(direction(), alpha=0.5))
    half = tokens(Shared(5), edit=edit)
    assert half == tokens(Reference(5), edit=edit)
    assert half != unsteered()
    assert half != tokens(Shared(5), edit=Edit(residual=ResidualEdit(direction())))


def test_other_prompts_are_shown_and_keep_the_rows_noise():
    requests, sampling = rows(), Sampling(max_new_tokens=NEW)
    edit = Edit(prompts=tuple("Is it day?" for _ in requests))
    moved = [replace(r, prompt="Is it day?") for r in requests]
    assert tokens(Shared(5), edit=edit, sampling=sampling) == tokens(
        Reference(5), moved, sampling=sampling
    )


@pytest.mark.parametrize("sets", [1, 2])
def test_an_edit_is_what_it_was_after_another_has_run_on_the_same_engine(sets):
    engine = Shared(5)
    of = None if sets == 1 else (0, 1) * 6
    made = []
    for seed in (1, 2):
        directions = torch.stack([direction(seed + 10 * n) for n in range(sets)])
        made.append(Edit(residual=ResidualEdit(directions, of=of)))
    expected = [tokens(Shared(5), edit=edit) for edit in made]
    before = [edit.residual.directions.clone() for edit in made]
    assert [tokens(engine, edit=made[at]) for at in (0, 1, 0)] == [*expected, expected[0]]
    for edit, directions in zip(made, before, strict=True):
        assert torch.equal(edit.residual.directions, directions)


def test_a_bias_is_what_it_was_after_another_has_run_on_the_same_engine():
    engine = Shared(5)
    drawn = [3 * torch.randn(400, generator=torch.manual_seed(at)) for at in range(2)]
    made = [Edit(rules=(Bias(bias),)) for bias in drawn]
    expected = [tokens(Shared(5), edit=edit) for edit in made]
    before = [bias.clone() for bias in drawn]
    assert [tokens(engine, edit=made[at]) for at in (0, 1, 0)] == [*expected, expected[0]]
    assert all(torch.equal(new, old) for new, old in zip(drawn, before, strict=True))
    assert tokens(engine) == unsteered()


@pytest.mark.parametrize("of", [(0,), (0,) * 13])
@pytest.mark.parametrize("engine", [Shared, Reference])
def test_sets_for_another_number_of_rows_are_refused(engine, of):
    edit = Edit(residual=ResidualEdit(torch.stack([direction()] * 2), of=of))
    with pytest.raises(ValueError, match=r"residual\.of has"):
        run(engine(5), edit=edit)


def test_a_feature_edit_runs_no_vision_tower_again_and_does_not_stay():
    engine = Shared(6)
    run(engine)
    edit = Edit(features=FeatureEdit(torch.zeros(32), torch.ones(32)))
    found = run(engine, edit=edit)
    assert engine.stats.encoded == 0
    assert len({tuple(r.token_ids) for r in found}) == 3  # All pictures look alike.
    assert tokens(engine) == unsteered()
    assert engine.stats.encoded == 0
