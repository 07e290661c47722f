"""Shifts of the first token: from probabilities by hand, and through real models."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from analysis import scores, tokens
from analysis.first_token import labels
from analysis.tokens import Shifting, TokenKeys
from jobs.__main__ import CONF
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import resolve
from lmmsteer.fleet.first_tokens import FirstTokens
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet
from tests.conftest import Command
from tests.engine.oracle import hook_ablation, inputs, plain
from tests.engine.runs import direction
from tests.fleet.answered import answered
from tests.tiny import tiny_llava

Found = dict[tuple[str, str, str, str | None], dict[str, Any]]


@dataclass
class Summed:
    sums: np.ndarray
    rows: np.ndarray


class Pretend:
    """Four tokens, the first two spell `he` and `she`; by cell, the mean probabilities."""

    texts = (" he", " she", " a", "\n")

    def __init__(self, means: dict[str, list[float]]) -> None:
        self.means = means
        self.asked: list[tuple[str, bool, tuple[str, ...]]] = []

    def spelled(self, words: Sequence[str]) -> list[int]:
        return [t for t, text in enumerate(self.texts) if text.strip() in words]

    def open(self, folder: str) -> Pretend:
        self.method = folder.split("method=")[1].split("/")[0]
        return self

    def look(self, opened: Any, image_ids: Sequence[str], steered: bool) -> Summed:
        self.asked.append((self.method, steered, tuple(image_ids)))
        mean = np.array(self.means[self.method if steered else "unsteered"])
        # Every picture has two prompts; odd pictures lean towards the first token.
        lean = np.array([0.1, -0.1, 0.0, 0.0])
        each = [mean + lean * (1 if int(i[1:]) % 2 else -1) for i in image_ids]
        return Summed(2 * np.stack(each), np.full(len(image_ids), 2))


@pytest.fixture
def filled(store: LocalStore, output: build.Output) -> LocalStore:
    output.manifest(build.people(8))
    output.cell("unsteered", "none", build.story({}))
    output.cell("steered", "gender", build.story({}), words=["he", "she"])
    return store


MEANS = {"unsteered": [0.5, 0.3, 0.2, 0.0], "steered": [0.2, 0.2, 0.2, 0.4]}


def run(store: LocalStore, models: Any, **keys: int) -> Found:
    settings = Shifting(bootstrap=200, permutations=50, tokens=TokenKeys(**keys))
    assert "scores/tokens.parquet" in tokens.run(store, settings, models, quiet)
    found = scores.read(store, "tokens")
    assert found is not None
    return {(r["method"], r["attribute"], r["metric"], r["group"]): r for r in found[0].to_dicts()}


def test_changes_are_differences_of_mean_probabilities(filled: LocalStore) -> None:
    found = run(filled, Pretend(MEANS), pictures=8, top=1)
    value = {key: row["value"] for key, row in found.items()}
    assert value["unsteered", "gender", "words_probability", None] == pytest.approx(0.8)
    assert value["steered", "gender", "words_probability", None] == pytest.approx(0.4)
    assert value["steered", "gender", "words_change", None] == pytest.approx(-0.4)
    assert value["steered", "gender", "change", "▁he"] == pytest.approx(-0.3)
    assert value["steered", "gender", "change", "▁she"] == pytest.approx(-0.1)
    # The largest change of all is no target word; ▁a is neither, so it is not listed.
    assert value["steered", "gender", "change", "\\n"] == pytest.approx(0.4)
    assert ("steered", "gender", "change", "▁a") not in found
    row = found["steered", "gender", "change", "▁he"]
    assert (row["n"], row["coverage"]) == (16, 1.0)
    compared = scores.read(filled, "comparisons/tokens")
    assert compared is not None
    (pair,) = compared[0].to_dicts()
    assert pair["difference"] == pytest.approx(-40)
    assert pair["clusters"] == 8


def test_the_interval_of_a_change_is_paired_by_picture(filled: LocalStore) -> None:
    found = run(filled, Pretend(MEANS), pictures=8, top=1)
    change = found["steered", "gender", "change", "▁he"]
    # Pictures differ by 0.2, but alike in both cells: the change does not vary at all.
    assert change["high"] - change["low"] == pytest.approx(0, abs=1e-12)
    alone = found["steered", "gender", "probability", "▁he"]
    assert alone["high"] - alone["low"] > 0.05


def test_pictures_are_drawn_by_the_seed_and_the_same_for_every_cell(filled: LocalStore) -> None:
    models = Pretend(MEANS)
    found = run(filled, models, pictures=3, top=1)
    (base, steered) = models.asked
    assert base[:2] == ("unsteered", False)
    assert steered[:2] == ("steered", True)
    assert base[2] == steered[2]
    assert len(set(base[2])) == 3
    assert found["steered", "gender", "change", "▁he"]["coverage"] == 3 / 8
    again = Pretend(MEANS)
    run(filled, again, pictures=3, top=1)
    assert again.asked == models.asked


def test_every_token_has_a_name_of_its_own() -> None:
    assert labels([" he", "he", "\n", "", "", "x", "x"]) == [
        *("▁he", "he", "\\n", "[3]", "[4]", "x[5]", "x[6]")
    ]


@pytest.mark.parametrize("key", ["pictures", "top"])
def test_a_number_that_shows_nothing_is_refused(filled: LocalStore, key: str) -> None:
    with pytest.raises(LmmsteerError, match=f"analysis.tokens.{key}=0"):
        run(filled, Pretend(MEANS), **{"pictures": 1, "top": 1, key: 0})


def test_answers_without_a_record_have_no_model_to_look_at(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest(build.people(4)).cell("unsteered", "none", build.story({}), ours=False)
    with pytest.raises(LmmsteerError, match="has no cell with a record"):
        run(store, Pretend(MEANS))


@pytest.fixture
def steered_output(tmp_path: Path, photos: Path) -> LocalStore:
    """Three photographs, unsteered and under a direction that was handed in."""
    path = tmp_path / "directions.safetensors"
    save_file({"directions": direction()}, path)
    ablation = ["method=ablation", f"method.artifact={path}", "attribute=gender"]
    return answered(tmp_path / "out", photos, ["method=unsteered"], ablation)


def test_they_are_those_of_transformers_with_hooks(
    steered_output: LocalStore, photos: Path, tmp_path: Path, command: Command
) -> None:
    arguments = ("analysis=tokens", "analysis.tokens.top=400", "analysis.bootstrap=10")
    code, out, err = command("analyze", *arguments, f"out={tmp_path / 'out'}")
    assert code == 0, err
    assert "scores/tokens.parquet" in out
    found = scores.read(steered_output, "tokens")
    assert found is not None
    changes = {
        r["group"]: r["value"]
        for r in found[0].to_dicts()
        if r["method"] == "ablation" and r["metric"] == "change"
    }
    expected = mean(photos, direction()) - mean(photos, None)
    names = labels(FirstTokens(steered_output).open(cell_folder(steered_output)).texts)
    assert len(changes) == len(names)
    ours = torch.tensor([changes[name] for name in names])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-3)
    assert expected.abs().max() > 0.01


def cell_folder(store: LocalStore) -> str:
    (path,) = [p for p in store.list("responses") if "method=ablation" in p and "_cell" in p]
    return path.removesuffix("/_cell.json")


def mean(photos: Path, directions: torch.Tensor | None) -> torch.Tensor:
    """Mean over pictures and prompts, one forward of transformers each."""
    prompts = yaml.safe_load((CONF / "prompts" / "open5.yaml").read_text())["items"].values()
    model, processor = plain(tiny_llava())
    handles = [] if directions is None else hook_ablation(model, directions)
    found = []
    with torch.no_grad():
        for path in sorted(photos.iterdir()):
            picture = Image.open(path).convert("RGB")
            for prompt in prompts:
                logits = model(**inputs(processor, prompt, picture)).logits[0, -1]
                found.append(logits.softmax(-1))
    for handle in handles:
        handle.remove()
    return torch.stack(found).mean(0)


def test_another_model_than_the_one_that_answered_is_refused(
    steered_output: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "_digest", lambda folder: "0" * 64)
    with pytest.raises(LmmsteerError, match="another model or artifact"):
        FirstTokens(steered_output).open(cell_folder(steered_output))


def test_a_model_that_is_gone_is_one_sentence(
    photos: Path, command: Command, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_llava(), tmp_path / "model")
    out = tmp_path / "out"
    answered(out, photos, ["method=unsteered"], settings=(f"model.path={folder}",))
    shutil.move(folder, tmp_path / "elsewhere")
    resolve._located.cache_clear()
    code, said, err = command("analyze", "analysis=tokens", f"out={out}")
    assert code == 2
    assert str(folder) in err
    assert "Traceback" not in said + err
