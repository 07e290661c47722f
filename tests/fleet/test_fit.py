"""fit and what generate makes of its artifact, by the commands themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lmmsteer.fleet.task import FitTask
from lmmsteer.fleet.work import Failure, Lot
from lmmsteer.store import LocalStore
from tests.conftest import Command
from tests.fleet.runs import line, parts, photos, run
from tests.tiny import save_tiny_llava

WORDS = ("method=steered_dataset", "attribute=gender", "method.words=[a,the]")
SMALL = ("method.images=3", "method.held_out=2", "method.kl_max=100", "method.score=mentions")
ARTIFACT = "artifacts/model=tiny/method=steered_dataset/attribute=gender/artifact.safetensors"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def ran(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a fit, and what was on standard error."""
    out = tmp_path_factory.mktemp("fit") / "out"
    done = run(line("fit", data, out, *WORDS, *SMALL))
    assert str(out / ARTIFACT) in done.stdout
    return out, done.stderr


@pytest.fixture(scope="module")
def fitted(ran: tuple[Path, str]) -> Path:
    return ran[0]


def test_the_artifact_holds_orthonormal_directions_every_candidate_and_its_scores(
    fitted: Path,
) -> None:
    with safe_open(fitted / ARTIFACT, "pt") as file:
        directions, candidates = file.get_tensor("directions"), file.get_tensor("candidates")
        about = file.metadata()
    assert directions.shape == (1, 32)
    assert candidates.shape == (2, 32)
    assert torch.allclose(directions @ directions.T, torch.eye(1), atol=1e-6)
    layer = int(about["layer"])
    unit = candidates[layer] / candidates[layer].norm()
    assert torch.allclose(directions[0], unit, atol=1e-6)
    assert about["model"] == "tiny"
    assert about["attribute"] == "gender"
    assert about["position"] == "prompt_last"
    assert "scores" in about


def test_fitting_again_changes_nothing_and_another_fit_is_refused(fitted: Path, data: Path) -> None:
    before = (fitted / ARTIFACT).read_bytes()
    run(line("fit", data, fitted, *WORDS, *SMALL))
    other = run(line("fit", data, fitted, *WORDS, *SMALL, "method.images=4"), expect=2)
    assert "method.images: 3 -> 4" in other.stderr
    assert (fitted / ARTIFACT).read_bytes() == before


def test_generate_steers_with_the_fitted_artifact_and_differs_from_unsteered(
    fitted: Path, data: Path
) -> None:
    small = ("limit=2", "sampling.temperature=0")
    run(
        line(
            "generate",
            data,
            fitted,
            "-m",
            "method=unsteered,steered_dataset",
            *small,
            "attribute=gender",
            "dataset.name=try",
        )
    )
    made = parts(fitted)
    assert {path.split("/")[1] for path in made} == {"method=unsteered", "method=steered_dataset"}
    assert {path.split("/")[2] for path in made} == {"attribute=none", "attribute=gender"}


def test_an_artifact_of_another_model_is_refused_before_weights_are_loaded(
    fitted: Path, data: Path, tmp_path: Path, command: Command
) -> None:
    other = save_tiny_llava(tmp_path / "other", seed=1)
    words = line("generate", data, tmp_path / "out", "method=ablation")[3:]
    words = [word for word in words if not word.startswith("model.path=")]
    artifact = f"method.artifact={fitted / ARTIFACT}"
    code, _, err = command(*words, f"model.path={other}", artifact)
    assert code == 2
    assert "was fitted on another model (tiny" in err
    assert not (tmp_path / "out").exists()


def test_more_features_than_the_model_has_are_refused_before_weights_are_loaded(
    data: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmmsteer.fleet.run.carry_out", pytest.fail)
    ask = ("method=sfid", "attribute=gender", "method.k=33")
    code, _, err = command(*line("fit", data, tmp_path / "out", *ask)[3:])
    assert code == 2
    assert "method.k=33 features are more than the 32 that tiny has." in err
    assert "Set method.k between 0 and 32" in err
    assert not (tmp_path / "out").exists()


def test_a_fit_says_its_lines_once_and_keeps_none_of_its_passes(ran: tuple[Path, str]) -> None:
    out, stderr = ran
    lines = [text for text in stderr.splitlines() if "tiny steered_dataset gender: " in text]
    assert any("layer 2 of 2" in text for text in lines)
    assert len(lines) == len(set(lines))
    (log,) = (out / "logs").glob("fit-tiny.steered_dataset.gender-*.jsonl")
    said = [json.loads(text)["line"] for text in log.read_text().splitlines()]
    assert [f"tiny steered_dataset gender: {text}" for text in said] == lines
    assert not list(out.rglob(".pass-*"))


def test_one_worker_fits_the_artifact_that_several_have_fitted(
    data: Path, tmp_path: Path, fitted: Path
) -> None:
    out = tmp_path / "out"
    run(line("fit", data, out, *WORDS, *SMALL, "cluster.workers=1"))
    assert (out / ARTIFACT).read_bytes() == (fitted / ARTIFACT).read_bytes()
    assert not list(out.rglob(".pass-*"))


def test_a_helping_hand_that_is_lost_fails_nothing(
    data: Path, tmp_path: Path, fitted: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    lost: list[str] = []

    def carry_out(lots: list[Lot], *others: object) -> list[Failure]:
        (lot,) = lots
        while (item := lot.take({}, pytest.fail)) is not None:
            assert isinstance(item.task, FitTask)
            if item.task.hand:
                lost.append(item.label)
            else:
                LocalStore(out).create(ARTIFACT, (fitted / ARTIFACT).read_bytes())
        return [Failure(label, "", "OutOfMemory: killed by the system") for label in lost]

    monkeypatch.setattr("lmmsteer.fleet.run.carry_out", carry_out)
    words = line("fit", data, out, *WORDS, *SMALL, "cluster.workers=3")[3:]
    code, shown, err = command(*words)
    assert lost == [f"tiny steered_dataset gender (hand {hand} of 3)" for hand in (2, 3)]
    assert code == 0
    assert str(out / ARTIFACT) in shown
    assert "OutOfMemory" not in err


def test_a_method_that_learns_nothing_and_an_attribute_that_is_missing_are_refused(
    data: Path, tmp_path: Path, command: Command
) -> None:
    for method, says in (("unsteered", "has nothing to fit"), ("steered_dataset", "attribute")):
        code, _, err = command(*line("fit", data, tmp_path / "out", f"method={method}")[3:])
        assert code == 2
        assert says in err
    assert not (tmp_path / "out").exists()
