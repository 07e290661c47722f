"""What who shares a cluster or opens others' files may rely on (docs/security.md)."""

from __future__ import annotations

import ast
import json
import pickle
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from lmmsteer.config import ViewConfig
from lmmsteer.errors import LmmsteerError
from lmmsteer.models import files
from lmmsteer.models.lmm import load
from lmmsteer.store import open_store
from tests.conftest import Command
from tests.tiny import tiny_llava
from tests.tiny_families import tiny_family

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path for room in ("lmmsteer", "jobs", "analysis") for path in (ROOT / room).rglob("*.py")
)
# What makes Python run what a file holds.
READERS = {
    *("pickle.load", "pickle.loads", "torch.load", "numpy.load", "np.load", "joblib.load"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "marshal.loads", "shelve.open"),
    *("pandas.read_pickle", "eval", "exec", "cloudpickle.loads", "dill.loads"),
}


class Planted:
    """A pickle that leaves a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny LLaVA whose weights are to be replaced."""
    return shutil.copytree(tiny_llava(), tmp_path / "a model")


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    return tmp_path / "ran"


def calls(text: str) -> set[str]:
    """The names by which a source calls something."""
    functions = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return {ast.unparse(each) for each in functions if isinstance(each, ast.Name | ast.Attribute)}


def test_no_source_calls_what_runs_code_from_a_file() -> None:
    assert len(SOURCES) > 200
    for path in SOURCES:
        text = path.read_text()
        if any(f"{name}(" in text for name in READERS):
            assert not calls(text) & READERS, path


def test_no_source_asks_for_code_of_a_model() -> None:
    said = [
        line
        for path in SOURCES
        for line in path.read_text().splitlines()
        if "trust_remote_code" in line
    ]
    assert said
    assert all(re.search(r"""trust_remote_code(=|"?: )False""", line) for line in said)


def test_nothing_turns_rays_token_authentication_off() -> None:
    deployed = [path for path in (ROOT / "deploy").iterdir() if path.is_file()]
    said = re.findall(
        r"RAY_AUTH_MODE\W{0,4}(\w+)", "\n".join(path.read_text() for path in [*deployed, *SOURCES])
    )
    assert len(said) >= 4
    assert set(said) == {"token"}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_pickled_weights_are_refused_unread_with_what_converts_them(
    name: str, folder: Path, ran: Path
) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Planted(ran)))
    with pytest.raises(LmmsteerError, match=r"pickles \(\*\.bin\)") as caught:
        load("m", str(folder))
    assert "save_pretrained" in str(caught.value.mend)
    assert not ran.exists()


def test_the_command_of_the_refusal_makes_the_same_model_of_a_bin(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(LmmsteerError) as caught:
        files.check(folder)
    run(caught.value, monkeypatch)
    found, expected = (
        load("m", str(folder)).model,
        AutoModelForImageTextToText.from_pretrained(tiny_llava()),
    )
    theirs = expected.state_dict()
    assert all(torch.equal(w, theirs[key]) for key, w in found.state_dict().items())


def test_the_command_of_the_refusal_runs_no_planted_code(
    folder: Path, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(Planted(ran), folder / "pytorch_model.bin")
    with pytest.raises(LmmsteerError) as caught:
        files.check(folder)
    with pytest.raises((pickle.UnpicklingError, OSError)):
        run(caught.value, monkeypatch)
    assert not ran.exists()


def test_a_clipcaps_published_pickle_is_refused_and_converted_by_its_command(
    tmp_path: Path, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_family("clipcap"), tmp_path / "a clipcap")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    published = folder / "coco_weights.pt"
    torch.save(Planted(ran), published)
    with pytest.raises(LmmsteerError, match=r"pickle \(coco_weights\.pt\)") as caught:
        load("c", str(folder))
    with pytest.raises((pickle.UnpicklingError, OSError)):
        run(caught.value, monkeypatch)
    assert not ran.exists()
    assert not (folder / "model.safetensors").exists()
    torch.save(weights, published)
    run(caught.value, monkeypatch)
    made = load_file(folder / "model.safetensors")
    assert made.keys() == weights.keys()
    assert all(torch.equal(made[key], weights[key]) for key in weights)


def test_an_index_may_name_no_other_files_than_safetensors(folder: Path, ran: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "weights.bin").write_bytes(pickle.dumps(Planted(ran)))
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "weights.bin")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LmmsteerError, match=r"names weights\.bin .* not a safetensors file"):
        load("m", str(folder))
    assert not ran.exists()


def test_weights_that_only_look_like_safetensors_are_not_unpickled(folder: Path, ran: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Planted(ran)))
    with pytest.raises(LmmsteerError, match="cannot be read"):
        load("m", str(folder))
    assert not ran.exists()


def test_code_that_lies_beside_a_models_weights_is_never_run(folder: Path, ran: Path) -> None:
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    kinds = ("Config", "ModelForImageTextToText", "Processor", "Tokenizer", "ImageProcessor")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        settings["auto_map"] = {f"Auto{kind}": "own.Own" for kind in kinds}
        (folder / name).write_text(json.dumps(settings))
    assert load("m", str(folder)).n_layers == 2
    assert not ran.exists()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own"}))
    with pytest.raises(LmmsteerError):
        load("m", str(folder))
    assert not ran.exists()


def test_directions_in_a_pickle_are_refused_unread(
    command: Command, folder: Path, ran: Path, tmp_path: Path
) -> None:
    (tmp_path / "directions.pt").write_bytes(pickle.dumps(Planted(ran)))
    code, _, error = command(
        *("generate", "method=ablation", "method.artifact=directions.pt", "attribute=gender"),
        *(f"model.path={folder}", "dataset=demo", "dataset.images=1", "out=out"),
    )
    assert (code, "is not a safetensors file" in error) == (2, True)
    assert not ran.exists()


@pytest.mark.parametrize("address", ["s3://AKIA:secret@bucket/out", "gs://me:secret@bucket/out"])
def test_an_address_with_credentials_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(LmmsteerError, match="holds credentials") as caught:
        open_store(address)
    assert "secret" not in f"{caught.value.what}{caught.value.mend}"


def test_no_key_of_any_config_takes_a_secret() -> None:
    words = ("password", "secret", "credential", "token:", "api_key:", "access_key")
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        for line in path.read_text().splitlines():
            key = line.partition("#")[0].strip().lower()
            assert not key.startswith(words), f"{path}: {line}"


def test_the_page_is_shown_to_this_machine_alone_unless_told_otherwise() -> None:
    import yaml

    assert ViewConfig.host == "127.0.0.1"
    shipped = yaml.safe_load((ROOT / "conf/view.yaml").read_text())
    assert shipped.get("host", "127.0.0.1") == "127.0.0.1"


def run(error: LmmsteerError, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command in what mends an error, as a shell would read it, in this process."""
    python, option, code, *arguments = shlex.split(
        "python -c" + error.mend.partition("python -c")[2]
    )
    assert (python, option) == ("python", "-c")
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    exec(compile(code, "<mend>", "exec"), {"__name__": "__main__"})
