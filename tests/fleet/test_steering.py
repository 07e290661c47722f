"""Methods, their parts and their artifacts, resolved without weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lmmsteer.config import AttributeConfig, GenerateConfig, ModelConfig
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import steering
from lmmsteer.fleet.steering import MissingArtifact, Place, needs_attribute, steering_of
from lmmsteer.methods import METHODS
from lmmsteer.methods.artifact import Artifact, ModelFacts
from lmmsteer.models.families import LLAVA
from lmmsteer.store import LocalStore

FACTS = ModelFacts("m", "d" * 64, 8, 3, 100, "t")
DIRECTION = torch.eye(8)[:1]


def place(tmp_path: Path, **more: object) -> Place:
    config = GenerateConfig(
        model=ModelConfig(path="demo"),
        attribute=AttributeConfig("gender", "What?", ["man", "woman"]),
        dataset={"name": "demo"},
        out=str(tmp_path / "out"),
    )
    store = LocalStore(tmp_path / "out")
    made = Place(store, config, FACTS, LLAVA, "m", "gender", "x")
    return replace(made, **more)  # type: ignore[arg-type]


def fitted(here: Place, folder: str, attribute: str = "gender", **parameters: object) -> Artifact:
    """An artifact as a fit of `folder` leaves it."""
    metadata = {"fit": {"method": parameters}}
    artifact = Artifact(
        {"kept": torch.ones(8), "imputed": torch.zeros(8), "importances": torch.ones(8)}, metadata
    )
    path = steering.artifact_path("m", folder, attribute)
    here.store.create(path, artifact.to_bytes())
    return artifact


def test_what_a_composed_method_needs_follows_from_its_parts() -> None:
    def needs(*parts: object) -> bool:
        return needs_attribute(METHODS["compose"](methods=list(parts)))  # type: ignore[call-arg]

    lexicon = {"name": "ala_n", "classifier": "lexicon", "lexicon": {"he": 1.0}}
    assert needs("steered_gradient", "vdd")
    assert not needs("vdd", {"name": "random_direction"})
    assert not needs({"name": "steered_gradient", "attribute": "age"})
    assert not needs(lexicon)  # Its target stands in the preset's file.
    assert not needs({"name": "blocklist", "words": ["man"]}, "prompt_howard")
    for bad in (
        "nonsense",
        "compose",
        7,
        {"name": ["ala"]},
        {"name": "ala_n", "lam": "strong"},
        {"name": "vdd", "alpha": "x"},
        {"name": "steered_gradient", "scope": 3},
        {"name": "ala_n", "lexicon": ["he"], "classifier": "lexicon"},
    ):
        with pytest.raises(LmmsteerError):
            needs(bad)


def test_an_artifact_that_was_fitted_otherwise_is_refused_and_defaults_take_what_is_there(
    tmp_path: Path,
) -> None:
    here = place(tmp_path, fitted="sfid")
    fitted(here, "sfid", k=4, tau=0.7)
    asked = METHODS["sfid"](k=2)  # type: ignore[call-arg]
    with pytest.raises(LmmsteerError, match="fitted with other parameters: k 4 -> 2"):
        steering_of(here, "sfid", asked)
    assert steering_of(here, "sfid", METHODS["sfid"]()).where is not None
    assert steering_of(here, "sfid", METHODS["sfid"](k=4)).where is not None  # type: ignore[call-arg]


def test_a_swept_member_takes_a_single_fit_only_if_it_is_the_same(tmp_path: Path) -> None:
    here = place(tmp_path, fitted="sfid+k-2")
    method = METHODS["sfid"](k=2)  # type: ignore[call-arg]
    defaults = {k: v for k, v in steering.parameters_of(method).items() if k not in ("name",)}
    fitted(here, "sfid", **{**defaults, "k": 3})
    with pytest.raises(MissingArtifact, match=r"sfid\+k-2") as error:
        steering_of(here, "sfid", method)
    assert (
        "lmmsteer fit method=sfid attribute=gender dataset=demo_fit method.k=2" in error.value.mend
    )
    fitted(replace(here, model="n"), "other")
    path = steering.artifact_path("m", "sfid", "gender")
    (tmp_path / "out" / path).unlink()
    fitted(here, "sfid", **defaults)
    assert steering_of(here, "sfid", method).where == path


def test_a_preset_does_not_take_its_methods_fit_of_other_classes(tmp_path: Path) -> None:
    here = place(tmp_path, fitted="ala_toxicity")
    fitted(here, "ala", classes=None, texts=None)
    method = METHODS["ala"](  # type: ignore[call-arg]
        name="ala_toxicity", target=-1.0, classes=["non-toxic", "toxic"]
    )
    with pytest.raises(MissingArtifact):
        steering_of(here, "ala", method)


def test_parts_are_restored_from_the_record_alone(tmp_path: Path) -> None:
    file = tmp_path / "handed.safetensors"
    Artifact({"directions": DIRECTION}).save(file)
    here = place(tmp_path, fitted="compose")
    method = METHODS["compose"](methods=[{"name": "ablation", "artifact": str(file)}, "vdd"])  # type: ignore[call-arg]
    made = steering_of(here, "compose", method)
    for where, artifact in made.handed:
        here.store.create(where, artifact.to_bytes())
    file.unlink()
    again = steering_of(replace(here, parts=made.addresses), "compose", method)
    assert again.defining == made.defining
    assert again.addresses == made.addresses
    assert str(file) not in str(made.defining)


def test_parts_bring_attributes_of_their_own(tmp_path: Path) -> None:
    terms = [
        {"attribute": "age", "target": 0.0, "classifier": "lexicon", "lexicon": {"old": 1.0}},
        {
            "attribute": {"name": "hat", "question": "A hat?", "words": ["hat"]},
            "target": 0.5,
            "classifier": "lexicon",
            "lexicon": {"hat": 1.0},
        },
    ]
    made = steering_of(place(tmp_path), "ala_cross", METHODS["ala_cross"](terms=terms))  # type: ignore[call-arg]
    assert [part.attribute["name"] for part in made.parts] == ["age", "hat"]
    assert [p["attribute"]["name"] for p in made.defining["parts"]] == ["age", "hat"]
    for bad in (5, True, "no-such"):
        with pytest.raises(LmmsteerError, match="attribute="):
            steering_of(
                place(tmp_path),
                "ala_cross",
                METHODS["ala_cross"](terms=[{**terms[0], "attribute": bad}]),  # type: ignore[call-arg]
            )


@pytest.mark.parametrize("bad", [[], 5, [1], None])
def test_an_ablation_names_files(bad: object) -> None:
    with pytest.raises(LmmsteerError, match="names no file"):
        METHODS["ablation"](artifact=bad)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("method", "mends"),
    [
        ("ablation", "as the tensor `directions`"),
        ("steered_dataset", "as the tensor `directions`"),
        ("sfid", "that lmmsteer fit has made"),
        ("ala", "that lmmsteer fit has made"),
    ],
)
def test_a_handed_file_that_is_no_safetensors_file_is_mended_in_its_methods_own_words(
    method: str, mends: str, tmp_path: Path
) -> None:
    file = tmp_path / "broken.safetensors"
    file.write_bytes(b"no tensors at all")
    with pytest.raises(LmmsteerError, match="is not a safetensors file") as error:
        steering_of(place(tmp_path), method, METHODS[method](artifact=str(file)))  # type: ignore[call-arg]
    assert mends in error.value.mend
    assert ("directions" in error.value.mend) == ("directions" in mends)


def test_a_broken_artifact_of_a_fit_is_to_be_moved_aside(tmp_path: Path) -> None:
    here = place(tmp_path, fitted="sfid")
    here.store.create(steering.artifact_path("m", "sfid", "gender"), b"{}")
    with pytest.raises(LmmsteerError, match="is not a safetensors file") as error:
        steering_of(here, "sfid", METHODS["sfid"]())
    assert "Move it aside and fit it anew" in error.value.mend
    assert "directions" not in error.value.mend
