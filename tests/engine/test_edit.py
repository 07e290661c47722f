from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmsteer.engine.edit import Bias, Edit, FeatureEdit, ResidualEdit, check_rows


@pytest.mark.parametrize(
    ("shape", "sets"),
    [((2, 8), (1, 1, 2, 8)), ((5, 2, 8), (5, 1, 2, 8)), ((5, 3, 2, 8), (5, 3, 2, 8))],
)
def test_directions_are_sets_of_layers_of_k_directions(shape, sets):
    drawn = torch.randn(shape)
    edit = Edit(residual=ResidualEdit(drawn))
    assert edit.residual.sets.shape == sets
    assert torch.equal(edit.residual.sets.flatten(), drawn.flatten())
    assert edit.residual.d_model == 8
    assert edit.set_count() == sets[0]


def test_each_row_has_its_set_and_without_a_list_the_first():
    edit = Edit(residual=ResidualEdit(torch.zeros(3, 1, 8), of=(2, 0, 1)))
    assert [edit.set_of(row) for row in range(3)] == [2, 0, 1]
    for other in (Edit(), Edit(residual=ResidualEdit(torch.zeros(1, 8)))):
        assert (other.set_of(7), other.set_count()) == (0, 1)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_feature_edit_scales_and_shifts_each_dimension_in_float32(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    scale, shift, *features = torch.randn(6, 8, generator=generator)
    features = torch.stack(features).view(2, 2, 8).to(dtype)
    found = FeatureEdit(scale, shift).apply(features)
    assert found.dtype == dtype
    assert torch.equal(found, (features.float() * scale + shift).to(dtype))


def test_scale_zero_drops_a_dimension_and_a_shift_imputes_its_value():
    scale, shift = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 5.0])
    found = FeatureEdit(scale, shift).apply(torch.tensor([[2.0, 3.0, 4.0]]))
    assert found.tolist() == [[2.0, 0.0, 5.0]]


def test_a_bias_is_added_to_float32_logits():
    logits, bias = torch.tensor([[1.0, 2.0]]), torch.tensor([1e-4, -torch.inf])
    found = Bias(bias).apply(logits, torch.zeros(1, 0), None, dense=True)
    assert found.tolist() == [[pytest.approx(1.0001), -torch.inf]]
    assert logits.tolist() == [[1.0, 2.0]]


def test_the_empty_edit_has_nothing_in_any_field():
    assert not any(getattr(Edit(), field.name) for field in fields(Edit))


@pytest.mark.parametrize(
    ("edit", "name"),
    [
        (Edit(prompts=("a",)), "prompts"),
        (Edit(residual=ResidualEdit(torch.zeros(1, 8), of=(0,))), "residual.of"),
    ],
)
def test_a_list_for_another_number_of_rows_is_a_mistake_that_is_named(edit, name):
    check_rows(edit, [None])
    with pytest.raises(ValueError, match=f"{name} has 1 entries for 2 rows"):
        check_rows(edit, [None, None])
