"""The verb bench: the same benchmark as python -m lmmsteer.engine.bench, its keys Hydra's."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from lmmsteer.config import BenchConfig
from lmmsteer.engine.benchmark.options import OPEN5, Options
from tests.conftest import Command

SMALL = (
    "bench",
    "shape=tiny",
    "pictures=1",
    "picture_size=40",
    "lengths=fixed:2",
    "repeats=1",
    "sweep_tokens=1",
    "check_rows=0",
    "overhead=false",
    "batch_sizes=[15]",
    "contenders=[reference,hooks]",
)


def test_bench_shows_a_table_and_writes_the_report(command: Command, tmp_path: Path) -> None:
    code, out, err = command(*SMALL, "json=found.json", "out=runs/x")
    assert (code, "of the roofline" in out) == (0, True), err
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["contenders"].keys() == {"reference", "hooks"}
    assert json.loads((tmp_path / "runs/x/report/bench.json").read_text()) == written
    assert not (tmp_path / "runs/x/logs").exists()


def test_json_true_shows_json_alone(command: Command) -> None:
    code, out, _ = command(*SMALL, "json=true", "sampling=greedy", "seeds=[0,1]")
    assert code == 0
    assert json.loads(out)["workload"]["rows"] == 10


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["shape=llava-9b"], "shape=llava-9b is not a shape"),
        (["contenders=[hooks]"], "does not begin with an engine of lmmsteer's"),
        (["lengths=nowhere.json"], "lengths=nowhere.json is not a file."),
        (["picturs=3"], "picturs is not a key of lmmsteer bench."),
        (["repeats=0"], "repeats=0 is not a positive number."),
        (["json=3"], "json=3 is neither a file nor true."),
        (["shape=null", "model.path=/nowhere"], "model.path=/nowhere is not a folder."),
    ],
)
def test_what_cannot_be_run_is_refused(overrides: list[str], says: str, command: Command) -> None:
    code, out, err = command(*SMALL, *overrides)
    assert code == 2
    assert says in err
    assert "Traceback" not in out + err


def test_the_defaults_of_verb_and_module_are_the_same() -> None:
    from jobs.bench import options_of
    from lmmsteer.config import ModelConfig, PromptsConfig

    config = BenchConfig(model=ModelConfig("demo"), prompts=PromptsConfig("open5", dict(OPEN5)))
    verb = options_of(config)
    differing = {f.name for f in fields(Options) if getattr(verb, f.name) != f.default}
    assert differing <= {"prompts", "threads"}


def test_the_five_prompts_of_the_module_are_those_of_the_config() -> None:
    from omegaconf import OmegaConf

    from jobs.__main__ import CONF

    assert OmegaConf.load(CONF / "prompts" / "open5.yaml")["items"] == OPEN5
