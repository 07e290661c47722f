from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmsteer.engine.edit import Edit, FeatureEdit, ResidualEdit
from lmmsteer.engine.hooks import Directions, ablate, installed, projecting
from lmmsteer.errors import LmmsteerError, RunFailed
from tests.engine import oracle
from tests.tiny import photographs, tiny_llava, tiny_lmm


def orthonormal(seed, k, d_model):
    drawn = torch.randn(d_model, k, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(drawn.double()).Q.T.float()


def hooks_in(lmm):
    """Forward hooks at the residual points; transformers keeps some of its own elsewhere."""
    modules = {point.module for point in lmm.residual_points()}
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(4, 40))
def test_ablation_is_idempotent_leaves_nothing_along_the_directions_and_raises_no_norm(seed, k, d):
    a = orthonormal(seed, k, d)
    r = torch.randn(2, 3, d, generator=torch.Generator().manual_seed(seed + 1))
    once = ablate(r, a)
    assert (once @ a.T).abs().max() < 1e-5
    assert torch.allclose(ablate(once, a), once, atol=1e-5)
    assert (once.norm(dim=-1) <= r.norm(dim=-1) + 1e-5).all()


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.floats(0, 1))
def test_a_share_of_the_component_is_removed_and_the_rest_of_the_residual_stays(seed, k, alpha):
    a = orthonormal(seed, k, 16)
    r = torch.randn(5, 16, generator=torch.Generator().manual_seed(seed + 1))
    share = ablate(r, a, alpha)
    assert torch.allclose(share @ a.T, (1 - alpha) * (r @ a.T), atol=1e-5)
    rest = torch.eye(16) - a.T @ a
    assert torch.allclose(share @ rest, r @ rest, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_hooks_are_the_same_as_orthogonalised_weights_the_projectors_last_linear_included(k):
    lmm, a = tiny_lmm(), orthonormal(5, k, tiny_lmm().d_model)
    model, processor = oracle.plain(tiny_llava())
    batch = oracle.inputs(processor, "What is this?", photographs()["cat"])
    plain = model(**batch).logits
    by_weights = oracle.orthogonalise(model, a)(**batch).logits
    with installed(lmm, Edit(residual=ResidualEdit(a))):
        by_hooks = lmm.model(**lmm.inputs(["What is this?"], [photographs()["cat"]])).logits
    assert torch.allclose(by_hooks, by_weights, atol=2e-3)
    assert not torch.allclose(by_hooks, plain, atol=0.1)


def test_every_residual_is_orthogonal_to_the_direction_while_the_edit_is_installed():
    lmm, a = tiny_lmm(), orthonormal(6, 1, tiny_lmm().d_model)
    seen = []
    with installed(lmm, Edit(residual=ResidualEdit(a))):
        handles = [
            point.module.register_forward_hook(
                lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
            )
            for point in lmm.residual_points()
            if point.place != "block_input"
        ]
        lmm.model(**lmm.inputs(["Hi"], [photographs()["cat"]]))
    for handle in handles:
        handle.remove()
    assert len(seen) == 2 * lmm.n_layers
    assert max(float((r @ a[0]).abs().max()) for r in seen) < 1e-3


def test_no_hook_is_left_after_an_exception_and_logits_are_what_they_were():
    lmm = tiny_lmm()
    batch = lmm.inputs(["Hi"], [photographs()["cat"]])
    before = lmm.model(**batch).logits
    edit = Edit(residual=ResidualEdit(orthonormal(7, 1, lmm.d_model)))

    def fail():
        with installed(lmm, edit):
            assert hooks_in(lmm) == 3 * lmm.n_layers
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert hooks_in(lmm) == 0
    assert torch.equal(lmm.model(**batch).logits, before)


def test_an_edit_that_never_ran_is_an_error():
    lmm = tiny_lmm()
    edit = Edit(residual=ResidualEdit(orthonormal(8, 1, lmm.d_model)))
    with pytest.raises(RunFailed, match="not applied at 6 of 6"), installed(lmm, edit):
        pass
    assert hooks_in(lmm) == 0


def test_an_edit_within_an_edit_is_refused_and_the_outer_one_stays_whole():
    lmm = tiny_lmm()
    edit = Edit(residual=ResidualEdit(orthonormal(8, 1, lmm.d_model)))
    with installed(lmm, edit):
        lmm.model(**lmm.inputs(["Hi"], [photographs()["cat"]]))
        with pytest.raises(LmmsteerError, match="still installed"), installed(lmm, edit):
            pass
        assert hooks_in(lmm) == 3 * lmm.n_layers


def test_directions_of_another_width_are_refused():
    lmm = tiny_lmm()
    edit = Edit(residual=ResidualEdit(orthonormal(8, 1, lmm.d_model + 1)))
    with pytest.raises(LmmsteerError, match=f"is {lmm.d_model} wide"), installed(lmm, edit):
        pass


def test_a_family_without_a_residual_stream_is_refused_with_that_reason():
    lmm = tiny_lmm()
    edit = Edit(residual=ResidualEdit(orthonormal(8, 1, lmm.d_model)))
    other = replace(lmm, family=replace(lmm.family, pre_norm_residual=False))
    with pytest.raises(LmmsteerError, match="no pre-norm residual stream"), installed(other, edit):
        pass


def test_fewer_places_than_the_model_has_layers_are_an_error(monkeypatch):
    lmm = tiny_lmm()
    edit = Edit(residual=ResidualEdit(orthonormal(8, 1, lmm.d_model)))
    points = lmm.residual_points()[:-1]
    monkeypatch.setattr(type(lmm), "residual_points", lambda _: points)
    with pytest.raises(LmmsteerError, match="6 places of tiny"), installed(lmm, edit):
        pass


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.floats(0, 1))
def test_each_row_of_a_batch_is_ablated_along_its_own_directions(seed, k, alpha):
    rows = [orthonormal(seed + n, k, 16) for n in range(3)]
    r = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(seed + 9))
    together = ablate(r, torch.stack(rows), alpha)
    for row, directions, found in zip(r, rows, together, strict=True):
        assert torch.allclose(found, ablate(row, directions, alpha), atol=1e-5)


def test_a_zero_direction_and_a_zero_share_change_no_bit():
    r = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))
    for k in (1, 2):
        a = orthonormal(1, k, 16)
        for directions in (a, a.expand(2, k, 16)):
            assert torch.equal(ablate(r, directions, 0.0), r)
            assert torch.equal(ablate(r, torch.zeros_like(directions)), r)


def directions_of(sets, alpha=1.0):
    return Directions(ResidualEdit(sets, alpha), tiny_lmm())


def test_a_layer_has_its_own_directions_or_all_have_the_same_and_a_row_its_set():
    drawn = torch.randn(3, 2, 1, 32, generator=torch.Generator().manual_seed(1))
    every = directions_of(drawn[:, 0])
    every.choose([2, 0])
    assert torch.equal(every.of_layer(0), drawn[[2, 0], 0])
    assert torch.equal(every.of_layer(1), drawn[[2, 0], 0])
    layered = directions_of(drawn)
    layered.choose([1, 1, 2])
    assert torch.equal(layered.of_layer(1), drawn[[1, 1, 2], 1])
    one = directions_of(drawn[:1])
    one.choose([0, 0, 0])
    assert torch.equal(one.of_layer(1), drawn[0, 1])


def test_slots_read_their_directions_from_memory_that_stays_while_their_number_does():
    sets = torch.randn(4, 1, 32, generator=torch.Generator().manual_seed(1))
    directions = directions_of(sets)
    directions.choose_slots([0, 1, 2])
    place = directions.of_layer(0).data_ptr()
    directions.choose([3])
    assert torch.equal(directions.of_layer(0), sets[[3]])
    directions.choose_slots([3, 3, 1])
    assert directions.of_layer(0).data_ptr() == place
    assert torch.equal(directions.of_layer(1), sets[[3, 3, 1]])


def test_loading_other_directions_keeps_the_memory_and_leaves_the_edits_own_alone():
    first, second = (ResidualEdit(orthonormal(seed, 1, 32)) for seed in (1, 2))
    kept = first.directions.clone()
    directions = Directions(first, tiny_lmm())
    place = directions.of_layer(0).data_ptr()
    directions.load(second)
    assert directions.of_layer(0).data_ptr() == place
    assert torch.equal(directions.of_layer(0), second.directions)
    assert torch.equal(first.directions, kept)


def test_what_a_recorded_step_depends_on_is_told_apart():
    a, b = orthonormal(1, 1, 32), orthonormal(2, 1, 32)
    one = directions_of(a).structure
    assert one == directions_of(b).structure
    others = [
        directions_of(a, 0.5),
        directions_of(torch.cat([a, orthonormal(3, 1, 32)])),
        directions_of(torch.stack([a, b])),
        directions_of(torch.stack([a, b])[None]),
    ]
    assert len({one, *(other.structure for other in others)}) == 5
    assert (
        directions_of(torch.stack([a, b])).structure
        == directions_of(torch.stack([a] * 3)).structure
    )


def test_an_edit_that_ran_may_rest_since_a_recorded_step_calls_no_hooks_until_others_are_loaded():
    lmm = tiny_lmm()
    residual = ResidualEdit(orthonormal(8, 1, lmm.d_model))
    known, edit = Directions(residual, lmm), Edit(residual=residual)
    with installed(lmm, edit, known=known):
        lmm.model(**lmm.inputs(["Hi"], [photographs()["cat"]]))
    with installed(lmm, edit, known=known):
        pass
    known.load(residual)
    with pytest.raises(RunFailed, match="not applied at 6 of 6"), installed(lmm, edit, known=known):
        pass


def test_the_projector_is_as_it_was_after_an_edit_of_its_features():
    lmm = tiny_lmm()
    batch = lmm.inputs(["Hi"], [photographs()["cat"]])
    before = lmm.model(**batch).logits
    edit = Edit(features=FeatureEdit(torch.zeros(32), torch.ones(32)))

    def fail():
        with projecting(lmm, edit):
            assert not torch.allclose(lmm.model(**batch).logits, before, atol=0.1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(lmm.model(**batch).logits, before)
    with projecting(lmm, Edit()):
        assert torch.equal(lmm.model(**batch).logits, before)
