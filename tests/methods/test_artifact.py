import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.artifact import Artifact, check

METADATA = {
    "model": "123",
    "model_digest": "12e4",
    "attribute": "gender",
    "layer": 3,
    "words": ["man", "Frau", "été"],
    "scores": [{"layer": 0, "score": -1.5, "kl": None}],
}


def orthonormal(k, d_model):
    drawn = torch.randn(d_model, k, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(drawn).Q.T.contiguous()


def test_an_artifact_comes_back_as_it_was_and_its_bytes_do_not_change():
    tensors = {"directions": orthonormal(2, 8), "candidates": torch.randn(4, 8)}
    data = Artifact(tensors, METADATA).to_bytes()
    turned = Artifact(dict(reversed(tensors.items())), dict(reversed(METADATA.items())))
    assert turned.to_bytes() == data
    found = Artifact.from_bytes(data)
    assert found.metadata == METADATA
    assert all(torch.equal(found.tensors[name], tensors[name]) for name in tensors)
    assert found.to_bytes() == data


def test_the_file_is_a_safetensors_file_with_readable_metadata(tmp_path):
    Artifact({"directions": orthonormal(1, 8)}, METADATA).save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("directions"), orthonormal(1, 8))
        assert file.metadata()["attribute"] == "gender"
        assert json.loads(file.metadata()["words"]) == METADATA["words"]


def test_directions_saved_elsewhere_are_accepted_in_any_float_dtype():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        data = save({"directions": torch.eye(8)[:2].to(dtype)}, metadata={"note": "mine"})
        check(Artifact.from_bytes(data), 8, 2, "digest", "tiny")


def bad(**changes):
    directions = orthonormal(2, 8)
    for at, value in changes.items():
        directions[int(at[1:])] = value
    return directions


@pytest.mark.parametrize(
    ("directions", "problem"),
    [
        (orthonormal(2, 9), r"shape \[2, 9\], and tiny needs \[k, 8\]"),
        (torch.eye(8)[0], r"shape \[8\]"),
        (torch.zeros(0, 8), r"shape \[0, 8\]"),
        (bad(r1=torch.nan), "not finite"),
        (bad(r0=torch.inf), "not finite"),
        (bad(r1=0.0), "is zero"),
        (bad(r1=torch.eye(8)[0], r0=torch.eye(8)[0]), "not orthonormal"),
        (orthonormal(2, 8) * 1.01, "not orthonormal"),
    ],
)
def test_directions_that_cannot_be_ablated_are_refused_with_the_reason(directions, problem):
    artifact = Artifact({"directions": directions})
    with pytest.raises(LmmsteerError, match=problem) as error:
        check(artifact, 8, 4, "digest", "tiny", "method.artifact=f.safetensors")
    assert error.value.what.startswith("method.artifact=f.safetensors ")
    assert "lmmsteer fit" in error.value.mend


def test_an_artifact_of_another_model_or_without_directions_is_refused():
    other = Artifact({"directions": orthonormal(1, 8)}, METADATA)
    check(other, 8, 4, "12e4", "tiny")
    with pytest.raises(LmmsteerError, match=r"fitted on another model \(123, weights 12e4\)"):
        check(other, 8, 4, "beef", "tiny")
    deeper = Artifact({"directions": orthonormal(1, 8)}, {"n_layers": 5})
    with pytest.raises(LmmsteerError, match="5 layers, and tiny has 4"):
        check(deeper, 8, 4, "beef", "tiny")
    with pytest.raises(LmmsteerError, match="no tensor `directions`"):
        check(Artifact({"direction": torch.eye(8)}), 8)


@pytest.mark.parametrize("data", [b"", b"short", b"\xff" * 100, b"PK\x03\x04" + b"\0" * 60])
def test_bytes_that_are_no_safetensors_file_are_refused(data):
    with pytest.raises(LmmsteerError, match=r"f\.safetensors is not a safetensors file"):
        Artifact.from_bytes(data, "f.safetensors")
