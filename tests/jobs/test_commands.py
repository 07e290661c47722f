"""Refusals: one clear sentence, exit code 2, nothing written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import Command
from tests.tiny import tiny_llava


def generate(photos: Path, out: Path, *more: str) -> list[str]:
    return [
        "generate",
        "dataset=folder",
        f"dataset.path={photos}",
        f"model.path={tiny_llava()}",
        "sampling.max_new_tokens=4",
        f"out={out}",
        *more,
    ]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["sampling.temprature=0"], "sampling.temprature is not a key of lmmsteer generate."),
        (["+foo=1"], "foo is not a key"),
        (["foo"], "'foo' is not of the form key=value."),
        (["method=unstered"], "Did you mean method=unsteered?"),
        (["dataset.path=/nowhere"], "dataset.path=/nowhere is not a folder."),
        (["model.path=/nowhere"], "model.path=/nowhere"),
        (["method=ablation"], "method.artifact has no value."),
        (["method=ablation", "method.artifact=/no.safetensors"], "cannot be read"),
        (["method=steered_dataset"], "needs an attribute"),
        (["method=steered_dataset", "attribute=age"], "lmmsteer fit method=steered_dataset"),
        (["sampling.top_k=many"], "sampling.top_k"),
        (["sampling.top_p=0"], "sampling.top_p=0.0 is out of range."),
        (["engine.name=warp"], "engine.name=warp is unknown."),
        (["shard_images=0"], "shard_images=0 is not a positive number."),
        (["seeds=[]"], "seeds=[] asks for no answers."),
        (["device=cuda"], "device.kind=cuda needs"),
        (["prompts.file=/no.yaml"], "prompts.file=/no.yaml cannot be read"),
        (["cluster.workers=0"], "cluster.workers=0"),
        (["out=???"], "out has no value."),
        (["-m", "method=nope,nada"], "method=nada is unknown."),
        (["experiment=paper_ala"], "Name that folder: data=DIR"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    overrides: list[str], says: str, photos: Path, tmp_path: Path, command: Command
) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, out, err = command(*generate(photos, tmp_path / "out", *overrides))
    assert code == 2
    assert says in err
    assert "Traceback" not in err + out
    assert sorted(tmp_path.rglob("*")) == before


def foreign(tmp_path: Path, **kind: object) -> Path:
    path = tmp_path / "directions.safetensors"
    width = int(kind.get("width", 32))  # type: ignore[call-overload]
    row = torch.zeros(1, width)
    row[0, 0] = float(kind.get("length", 1.0))  # type: ignore[arg-type]
    save_file({str(kind.get("tensor", "directions")): row}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ({"width": 33}, "[k, 32]"),
        ({"length": float("nan")}, "not finite"),
        ({"length": 2.0}, "not orthonormal"),
        ({"length": 0.0}, "zero"),
        ({"tensor": "vectors"}, "no tensor `directions`"),
    ],
)
def test_a_handed_in_artifact_that_does_not_fit_is_refused_before_weights_are_loaded(
    kind: dict[str, object], says: str, photos: Path, tmp_path: Path, command: Command
) -> None:
    path = foreign(tmp_path, **kind)
    more = ("method=ablation", f"method.artifact={path}")
    code, _, err = command(*generate(photos, tmp_path / "out", *more))
    assert (code, says in err) == (2, True), err
    assert not (tmp_path / "out").exists()


def test_the_usage_lists_exactly_the_verbs_that_work(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    assert "generate" in out
    assert "compact" not in out
    assert command("compact", "out=x")[0] == 2


def test_help_shows_examples_and_keys_and_cfg_the_composed_config(command: Command) -> None:
    code, out, _ = command("generate", "--help")
    assert code == 0
    assert "Examples:" in out
    assert "max_new_tokens: 512" in out
    code, out, _ = command("generate", "--cfg", "job")
    assert code == 0
    assert out.startswith("model:")


def test_plan_writes_nothing_and_names_the_fit_command(
    photos: Path, tmp_path: Path, command: Command
) -> None:
    line = generate(photos, tmp_path / "out", "method=unsteered,steered_dataset", "attribute=age")
    code, out, _ = command("plan", "-m", *line[1:])
    assert code == 0
    assert "unsteered none folder" in out
    assert "lmmsteer fit method=steered_dataset attribute=age" in out
    assert not (tmp_path / "out").exists()


def test_plan_as_json_counts_shards_and_rows(
    photos: Path, tmp_path: Path, command: Command
) -> None:
    line = generate(photos, tmp_path / "out", "shard_images=2")[1:]
    assert command("manifest", *line)[0] == 0
    code, out, _ = command("plan", *line, "json=true")
    (cell,) = json.loads(out)["cells"]
    assert code == 0
    assert (cell["rows"], cell["rows_left"], cell["shards"], cell["shards_done"]) == (45, 45, 2, 0)


def test_manifest_is_made_and_its_other_config_refused(
    photos: Path, tmp_path: Path, command: Command
) -> None:
    line = ["manifest", "dataset=folder", f"dataset.path={photos}", f"out={tmp_path / 'out'}"]
    code, out, _ = command(*line)
    assert code == 0
    assert "3 pictures, 45 rows, 1 parts" in out
    assert "folder: 0 pictures cannot be shown, 0 have the bytes of another" in out
    assert (tmp_path / "out/report/pictures-folder.csv").is_file()
    again = command(*line, "check=false")
    assert again[0] == 0
    assert "cannot be shown" not in again[1]
    code, _, err = command(*line, "seeds=[4]")
    assert code == 2
    assert "seeds: [0, 1, 2] -> [4]" in err


def test_status_and_resume_of_an_empty_folder_name_the_command_that_starts_one(
    tmp_path: Path, command: Command
) -> None:
    for verb in ("status", "resume"):
        code, _, err = command(verb, f"out={tmp_path}")
        assert code == 2
        assert "lmmsteer generate" in err


def test_a_value_with_an_equals_sign_needs_no_quotes(
    photos: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "study=1" / "model=a"
    line = ["manifest", "dataset=folder", f"dataset.path={photos}", f"out={out}"]
    assert command(*line)[0] == 0
    assert (out / "manifest" / "dataset=folder" / "_manifest.json").is_file()


def test_view_serves_a_report_until_it_is_interrupted(tmp_path: Path, command: Command) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report/report.html").write_text("<p>found")
    line = [sys.executable, "-m", "lmmsteer", "view", f"out={tmp_path}", "port=0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        address = run.stdout.readline().split()[0]
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == b"<p>found"
        run.send_signal(signal.SIGINT)
        rest = run.stdout.read()
        assert (run.wait(), rest.startswith("From another machine: ssh -L")) == (0, True), rest
    code, _, err = command("view", f"out={tmp_path / 'none'}")
    assert (code, "lmmsteer report out=" in err) == (2, True), err
    assert not (tmp_path / "none").exists()


def test_a_licence_is_told_before_the_first_run_and_not_again(
    photos: Path, tmp_path: Path, command: Command
) -> None:
    mine = ("dataset=folder", f"dataset.path={photos}", "dataset.licence=evaluation only")
    line = ["manifest", *mine, f"out={tmp_path / 'out'}"]
    assert command(*line)[1].startswith("folder: licence: evaluation only\n")
    assert "licence: " not in command(*line)[1]


def test_configs_of_ones_own_are_found_beside_the_shipped_ones(
    photos: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "attribute").mkdir()
    (tmp_path / "experiment").mkdir()
    hair = "name: hair\nquestion: What hair?\nwords: [blond, bald]\nnote: null\n"
    (tmp_path / "attribute/hair.yaml").write_text(hair)
    study = (
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    grids:\n"
        "      - method: [blocklist, steered_gradient]\n        attribute: hair\n"
        "      - method: unsteered\n"
    )
    (tmp_path / "experiment/mine.yaml").write_text(study)
    line = generate(photos, tmp_path / "out", f"--config-dir={tmp_path}")[1:]
    code, out, err = command("plan", *line, "experiment=mine")
    assert code == 0, err
    for cell in ("blocklist hair", "steered_gradient hair", "unsteered none"):
        assert f"{cell} folder" in out
    code, out, err = command("plan", *line, "experiment=mine", "attribute=hair")
    assert "3 cells" in out + err
    code, _, err = command("plan", *line, "experiment=mine", "method=blocklist,prompt")
    assert code == 2
    assert "method=prompt is not in the experiment" in err
    assert "Traceback" not in err
