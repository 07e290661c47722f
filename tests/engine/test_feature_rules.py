import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmmsteer.engine.edit.feature_rules import (
    FeatureResidual,
    FeatureRotation,
    exp_map,
    log_map,
    slerp,
)

D = 12
DTYPES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def residual(seed, alpha=1.0):
    shapes = {"w1": (5, D), "b1": (5,), "w2": (D, 5), "b2": (D,)}
    drawn_weights = {name: drawn(seed + at, *s) for at, (name, s) in enumerate(shapes.items())}
    return FeatureResidual(**drawn_weights, alpha=alpha)


def rotation(seed, k=2, **changed):
    mean, *rows = torch.linalg.qr(drawn(seed, D, k + 1)).Q.T
    made = {"median": 0.4, "spread": 0.2, "kappa": 5.0, "floor": 0.3, "alpha": 1.0, **changed}
    return FeatureRotation(mean, torch.stack(rows), **made)


def turned(rule, h):
    """One token by the formulas of the textbook, in float64: arc cosines and quotients of sines."""
    mean, subspace = rule.mean.double().numpy(), rule.subspace.double().numpy()
    length = np.sqrt((h * h).sum())
    x = h / length
    w = np.arccos(x @ mean)
    t = w / np.sin(w) * (x - np.cos(w) * mean)
    clean = t - sum((v @ t) * v for v in subspace)
    size = np.sqrt(sum((v @ t) ** 2 for v in subspace))
    gate = rule.floor + (1 - rule.floor) / (
        1 + np.exp(-rule.kappa * (size - rule.median) / rule.spread)
    )
    angle = np.sqrt((clean * clean).sum())
    goal = np.cos(angle) * mean + np.sin(angle) * clean / angle
    apart = np.linalg.norm(x - goal), np.linalg.norm(x + goal)  # An arc cosine would be 0 too soon.
    way, share = 2 * np.arctan2(*apart), rule.alpha * gate
    return length * (np.sin((1 - share) * way) * x + np.sin(share * way) * goal) / np.sin(way)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 1.0]), st.sampled_from(list(DTYPES)))
def test_a_residual_is_a_two_layer_network_added_to_every_token(seed, alpha, dtype):
    rule, features = residual(seed, alpha), drawn(seed + 9, 2, 3, D).to(dtype)
    w1, b1, w2, b2 = (x.double().numpy() for x in (rule.w1, rule.b1, rule.w2, rule.b2))
    found = rule.apply(features)
    assert found.dtype == dtype
    assert found.shape == features.shape
    for token, changed in zip(features.view(6, D), found.view(6, D), strict=True):
        f = token.double().numpy()
        wanted = f + alpha * (w2 @ np.maximum(w1 @ f + b1, 0) + b2)
        tolerance = 100 * DTYPES[dtype]
        assert np.allclose(changed.double().numpy(), wanted, atol=tolerance, rtol=DTYPES[dtype])


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.25, 1.0, 1.5]), st.sampled_from(list(DTYPES)))
@example(229215, 0.25, torch.bfloat16)  # A token that has next to no part in the subspace.
def test_a_rotation_turns_every_token_as_the_formulas_say(seed, alpha, dtype):
    rule = rotation(seed, k=1 + seed % 3, alpha=alpha)
    features = (3 * drawn(seed + 1, 2, 3, D)).to(dtype)
    found = rule.apply(features)
    assert found.dtype == dtype
    for token, changed in zip(features.view(6, D), found.view(6, D), strict=True):
        wanted = turned(rule, token.double().numpy())
        tolerance = 10 * DTYPES[dtype]
        assert np.allclose(changed.double().numpy(), wanted, atol=tolerance, rtol=DTYPES[dtype])


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_a_rotation_keeps_norms_and_tokens_do_not_see_each_other(seed):
    rule, features = rotation(seed), drawn(seed + 1, 4, D)
    found = rule.apply(features)
    assert torch.allclose(found.norm(dim=-1), features.norm(dim=-1), rtol=1e-5)
    alone = torch.cat([rule.apply(token[None]) for token in features])
    assert torch.allclose(found, alone, atol=1e-5)


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_a_gate_that_is_wide_open_leaves_no_part_in_the_subspace(seed):
    rule = rotation(seed, floor=1.0)
    found = rule.apply(drawn(seed + 1, 4, D))
    unit = found / found.norm(dim=-1, keepdim=True)
    assert (log_map(rule.mean, unit) @ rule.subspace.T).abs().max() < 1e-5
    assert torch.allclose(rule.apply(found), found, atol=1e-5)


def test_a_gate_opens_from_its_floor_to_one_as_the_part_in_the_subspace_grows():
    mean, axis, other = torch.eye(D)[:3]
    shares = []
    for angle in (0.01, 0.4, 1.5):
        angle = torch.tensor(angle)
        token = angle.cos() * mean + angle.sin() * axis
        rule = FeatureRotation(mean, axis[None], median=0.4, spread=0.01)
        left = torch.atan2(*(rule.apply(token[None])[0][[1, 0]]))
        shares.append(float(1 - left / angle))
    assert shares == pytest.approx([0.3, 0.65, 1.0], abs=1e-3)
    # Nothing to take out: the token is its own goal.
    kept = 0.8 * mean + 0.6 * other
    assert torch.allclose(rule.apply(kept[None])[0], kept, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [residual, rotation])
def test_alpha_zero_hands_back_the_very_tensor(make, dtype):
    features = drawn(1, 3, D).to(dtype)
    assert make(0, alpha=0.0).apply(features) is features


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_without_a_direction_are_left_alone_and_nothing_becomes_nan(dtype):
    rule = rotation(3)
    features = torch.stack([torch.zeros(D), rule.mean, -rule.mean, rule.subspace[0], drawn(4, D)])
    features = features.to(dtype)
    for spread in (0.2, 0.0):
        changed = rotation(3, spread=spread).apply(features)
        assert torch.isfinite(changed).all()
        assert torch.equal(changed[0], features[0])
    assert torch.allclose(changed[1].float(), rule.mean, atol=DTYPES[dtype])


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_log_and_exp_undo_each_other_and_slerp_goes_along_the_great_circle(seed):
    mean, start, goal = torch.nn.functional.normalize(drawn(seed, 3, D).double(), dim=-1)
    tangent = log_map(mean, start)
    assert float(tangent @ mean) == pytest.approx(0, abs=1e-12)
    assert float(tangent.norm()) == pytest.approx(float((start @ mean).arccos()))
    assert torch.allclose(exp_map(mean, tangent), start)
    whole = (start @ goal).arccos()
    for share in (0.0, 0.3, 1.0):
        found = slerp(start, goal, torch.tensor([share], dtype=torch.float64))
        assert float(found.norm()) == pytest.approx(1)
        assert float((found @ goal).clamp(-1, 1).arccos()) == pytest.approx(
            float((1 - share) * whole), abs=1e-6
        )
    half = torch.tensor([0.5], dtype=torch.float64)
    assert torch.equal(slerp(start, start, half), start)
