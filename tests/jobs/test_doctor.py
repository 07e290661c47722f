"""The doctor finds what is planted in a model's folder or in a family's record, and names it."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from jobs import doctor
from lmmsteer.config import DoctorConfig, ModelConfig
from lmmsteer.models import families
from lmmsteer.models.decoding import DECODING, Decoding
from tests.tiny import tiny_llava, tiny_tokenizer
from tests.tiny_families import NAMES, tiny_family
from tests.tiny_recent import RECENT

WHOLE = ["llava", *(name for name in NAMES if name != "paligemma2")]  # Its window is too short.
CHECKS = [
    "model files",
    "model weights",
    "template",
    "picture",
    "residual stream",
    "prefix sharing",
    "answer",
]


def folder_of(name):
    return tiny_llava() if name == "llava" else tiny_family(name)


@pytest.fixture
def no_ray(monkeypatch):
    monkeypatch.setattr(doctor, "_ray", lambda _: "not started here")


@pytest.fixture
def broken(tmp_path):
    """A copy of a tiny model's folder, to be broken."""

    def copy(name):
        return shutil.copytree(folder_of(name), tmp_path / name)

    return copy


def found(folder, family="auto", **more):
    model = ModelConfig(path=str(folder), name="tiny", family=family)
    return list(doctor._model_findings(DoctorConfig(model=model, **more)))


def wrong(folder, family="auto"):
    """What is said to be wrong: check and sentence; every one with what mends it."""
    bad = [finding for finding in found(folder, family) if not finding.ok]
    assert all(finding.mend and "\n" not in finding.seen for finding in bad)
    return {finding.check: finding.seen for finding in bad}


def edit_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_model_of_every_family_is_well(name):
    findings = found(folder_of(name))
    assert [(finding.check, finding.ok) for finding in findings] == [(c, True) for c in CHECKS]
    said = {finding.check: finding.seen for finding in findings}
    if name != "blip":
        places = 9 if name == "mllama" else 6
        assert f"{places} places" in said["residual stream"]
        assert "is 0.0% when ablated" in said["residual stream"]
    if name != "paligemma":  # Whose prompts share nothing.
        assert "before another 0.0e+00" in said["prefix sharing"]
    assert "in engine=shared" in said["prefix sharing"]


def test_without_weights_only_files_are_looked_at():
    assert [finding.check for finding in found(tiny_llava(), weights=False)] == CHECKS[:1]


@pytest.mark.parametrize("name", ["llava", "internvl", "gemma3"])
def test_a_missing_processor_is_named(name, broken):
    folder = broken(name)
    for file in ("preprocessor_config.json", "processor_config.json"):
        (folder / file).unlink(missing_ok=True)
    says = {"model files": f"model.path={folder} has no preprocessor_config.json, so pictures"}
    assert {check: seen[: len(says[check])] for check, seen in wrong(folder).items()} == says


def test_weights_that_are_cut_off_are_named(broken):
    folder = broken("llava")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "cannot be read" in wrong(folder)["model weights"]


@pytest.mark.parametrize("name", ["llava", "smolvlm", "mllama"])
def test_another_token_for_the_picture_than_the_tokenizers_is_named(name, broken):
    folder = broken(name)
    config = json.loads((folder / "config.json").read_text())
    key = "image_token_id" if "image_token_id" in config else "image_token_index"
    edit_json(folder / "config.json", **{key: config[key] + 1})
    assert wrong(folder)["template"].startswith(
        f"config.json says that the picture's token is {config[key] + 1}, but the tokenizer has"
    )


def test_a_tokenizer_that_does_not_know_the_placeholder_is_named(broken):
    folder = broken("internvl")
    for file in folder.glob("*token*"):
        file.unlink()
    tiny_tokenizer().save_pretrained(folder)
    assert "does not know the picture's placeholder <IMG_CONTEXT>" in wrong(folder)["template"]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ messages[0]['content'][1]['text'] }}", "no place for the picture (<image>)"),
        ("<image><image>{{ messages[0]['content'][1]['text'] }}", "has 2 times a place for the"),
        ("<image>Describe it.", "has 0 times a place for the question"),
        ("<s><s><image>{{ messages[0]['content'][1]['text'] }}", "begins with two <s>"),
    ],
)
def test_a_template_without_its_picture_or_question_or_with_two_is_named(template, says, broken):
    folder = broken("llava")
    (folder / "chat_template.jinja").write_text(template)
    assert says in wrong(folder)["template"]


def test_a_picture_of_other_tiles_than_the_models_is_named(broken):
    folder = broken("internvl")
    edit_json(folder / "preprocessor_config.json", size={"height": 48, "width": 48})
    assert "picture" in wrong(folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers' own, of numpy 2.
def test_sharing_that_a_folders_mask_does_not_allow_is_named():
    """PaliGemma opened as LLaVA, whose pictures do not read what stands behind them."""
    said = wrong(tiny_family("paligemma"), family="llava")
    assert "hangs on what stands behind" in said["prefix sharing"]


def test_sharing_that_is_declared_wrong_is_named(monkeypatch):
    class Eager(type(DECODING["paligemma"])):
        shares_prompts = True

    monkeypatch.setitem(DECODING, "paligemma", Eager())
    said = wrong(tiny_family("paligemma"))
    assert "hangs on what stands behind" in said["prefix sharing"]


def test_a_mask_that_is_declared_wrong_is_named(monkeypatch):
    """Gemma 3 as if its picture were causal: what rows share is right, how it is computed not."""
    monkeypatch.setitem(DECODING, "gemma3", Decoding())
    said = wrong(tiny_family("gemma3"))
    assert "is another in engine=shared than in the model" in said["prefix sharing"]


def test_a_record_that_misses_what_is_written_is_named(monkeypatch):
    record = replace(families.GEMMA3, writes=(("self_attn", "mlp"),))
    monkeypatch.setitem(families.FAMILIES, "gemma3", record)
    said = wrong(tiny_family("gemma3"))
    assert "something else writes to the residual stream" in said["residual stream"]


def test_a_record_whose_modules_are_not_there_is_named(monkeypatch):
    record = replace(families.LLAVA, writes=(("attention", "ffn"),))
    monkeypatch.setitem(families.FAMILIES, "llava", record)
    assert "writes to the residual stream" in wrong(tiny_llava())["residual stream"]


def test_features_that_are_not_finite_are_named(monkeypatch):
    seen = Decoding.features
    monkeypatch.setattr(Decoding, "features", lambda *a: [x * torch.nan for x in seen(*a)])
    assert "not finite" in wrong(tiny_llava())["picture"]


@pytest.mark.parametrize("name", [name for name in ("qwen3_vl", "smolvlm") if name in RECENT])
def test_positions_that_are_one_off_are_found_by_the_answer(name, monkeypatch):
    kind = type(DECODING[name])
    start = kind.start
    monkeypatch.setattr(kind, "start", lambda *a: start(*a) + 3, raising=False)
    assert "not the one that transformers' own" in wrong(tiny_family(name))["answer"]


def test_a_fault_is_exit_code_1_with_its_sentence_and_no_traceback(broken, command, no_ray):
    folder = broken("llava")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'][1]['text'] }}")
    code, out, err = command("doctor", f"model.path={folder}")
    assert code == 1
    assert "WRONG template: The chat template of llava has no place for the picture" in out
    assert "Mend chat_template.jinja" in out
    assert "Traceback" not in out + err
    assert "ok    model weights" in out


def test_a_model_that_is_well_is_exit_code_0_and_json_says_each_check(command):
    code, out, _ = command("doctor", f"model.path={tiny_llava()}", "json=true")
    assert code == 0
    assert [one["check"] for one in json.loads(out)][-len(CHECKS) :] == CHECKS
