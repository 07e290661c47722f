"""Directions of several files as one artifact."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods import METHODS
from lmmsteer.methods.artifact import Artifact, check
from tests.methods.directions_world import FACTS, WIDTH, artifact, everywhere


def projector(rows):
    q = torch.linalg.qr(rows.double().T)[0]
    return q @ q.T


def join(*artifacts, **parameters):
    """Several files as a run has them: joined, written and read again."""
    found = METHODS["ablation"](**parameters).join(artifacts)
    return Artifact.from_bytes(found.to_bytes())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3))
def test_several_files_remove_their_span_whatever_their_order(seed, k, j):
    both = [artifact(k, seed), artifact(j, seed + 1)]
    found, other = (join(*order).tensors["directions"] for order in (both, both[::-1]))
    rows = torch.cat([each.tensors["directions"] for each in both])
    assert torch.allclose(found @ found.T, torch.eye(k + j), atol=1e-5)
    assert torch.allclose((found.T @ found).double(), projector(rows), atol=1e-5)
    assert torch.allclose(found.T @ found, other.T @ other, atol=1e-5)


def test_one_file_stays_as_it_is():
    only = artifact(2)
    assert METHODS["ablation"]().join([only]) is only


def test_a_direction_that_another_file_has_too_adds_none():
    fitted = artifact(2)
    a = fitted.tensors["directions"]
    found = join(fitted, Artifact({"directions": a[1:]}))
    assert torch.allclose(found.tensors["directions"], a, atol=1e-6)
    check(found, WIDTH)


def test_several_means_keep_each_directions_component():
    both = [artifact(1, seed=1), artifact(2, seed=2)]
    found = everywhere(join(*both), mode="affine")
    for each in both:
        a, mean = each.tensors["directions"], each.tensors["mean"]
        assert torch.allclose(found.shifts[0] @ a.T, mean @ a.T, atol=1e-4)


def test_several_additions_each_go_to_their_own_layer():
    both = [artifact(seed=1, layer=0), artifact(seed=2, layer=2)]
    found = everywhere(join(*both), mode="add", alpha=2.0).shifts[0]
    assert torch.allclose(found[1], 2 * both[0].tensors["candidates"][0], atol=1e-5)
    assert torch.allclose(found[3], 2 * both[1].tensors["candidates"][2], atol=1e-5)
    assert not found[[0, 2]].any()
    alone = Artifact({"directions": torch.eye(WIDTH)[:1]})
    with pytest.raises(LmmsteerError, match="which layer's output"):
        everywhere(join(both[0], alone), mode="add")


def test_what_several_files_agree_on_is_kept():
    both = [replace(artifact(seed=n), metadata={"alpha": 0.5, "layer": n}) for n in (1, 2)]
    assert join(*both).metadata == {"alpha": 0.5, "layers": [1, 2]}


def test_files_that_cannot_be_joined_are_refused():
    with pytest.raises(LmmsteerError, match=r"File 2 of method\.artifact holds .* \[1, 16\]"):
        join(artifact(), artifact(d_model=16))
    with pytest.raises(LmmsteerError, match=r"File 1 of method\.artifact has no tensor"):
        join(Artifact({}), artifact())
    apart = [replace(artifact(), metadata={"model_digest": digest}) for digest in ("1", "2")]
    with pytest.raises(LmmsteerError, match="different models"):
        join(*apart)
    found = join(apart[0], artifact())
    with pytest.raises(LmmsteerError, match="another model"):
        METHODS["ablation"]().check(found, FACTS)


def test_directions_that_are_not_orthogonal_are_refused_where_conflict_is_an_error():
    with pytest.raises(LmmsteerError, match=r"Directions 1 and 2 of method\.artifact"):
        join(artifact(1, 1), artifact(1, 2), conflict="error")
    apart = [Artifact({"directions": torch.eye(WIDTH)[n : n + 1]}) for n in (0, 1)]
    assert torch.equal(join(*apart, conflict="error").tensors["directions"], torch.eye(WIDTH)[:2])
    with pytest.raises(LmmsteerError, match=r"method\.conflict=first is not known"):
        METHODS["ablation"](conflict="first")
