from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from jobs import analyze
from jobs.__main__ import CONF, VERBS
from lmmsteer import config as configs
from lmmsteer import datasets, device
from lmmsteer.config import PromptsConfig
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import engines, launcher, resolve
from lmmsteer.methods import METHODS

PRIMARY = sorted(path.stem for path in CONF.glob("*.yaml"))
APART = ("hydra", "experiment")  # Experiments: tests/fleet/test_grids.py.
GROUPS = sorted(p for p in CONF.glob("*/*.yaml") if p.parent.name not in APART)
GIVEN = {
    "ablation": ["method.artifact=FILE"],
    "ala_cross": ["method.terms=[{attribute: gender, target: 0.0}]"],
    "clipcap": ["model.path=DIR"],
    "synthetic": ["dataset.checkpoint=DIR"],
    **{name: ["dataset.path=DIR"] for name in set(datasets.LOADERS) - {"demo", "synthetic"}},
}


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    configs.register_all()
    launcher.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def test_every_verb_has_a_primary_config_and_help_with_two_examples() -> None:
    assert sorted(verb.replace("-", "_") for verb in VERBS) == PRIMARY
    for verb in VERBS:
        text = (CONF / "hydra" / "help" / f"{verb.replace('-', '_')}.yaml").read_text()
        assert text.count(f"    lmmsteer {verb} ") + text.count(f"    lmmsteer {verb}\n") == 2


@pytest.mark.parametrize("name", PRIMARY)
def test_every_primary_config_composes(name: str) -> None:
    composed = compose(name, overrides=["out=runs/x"])
    assert composed.out == "runs/x"


def _instance(group: str, config: Any) -> object:
    if group == "method":
        return resolve.method_of(resolve.typed_config(config))[1]
    if group == "dataset":
        return datasets.open_dataset(config.dataset)
    if group == "analysis":
        schema = analyze._schema(config.analysis.get("name"))
        return configs.typed(config.analysis, schema, "analysis")
    typed = resolve.typed_config(config)
    if group == "engine":
        return engines.open_engine(typed.engine)
    if group == "device":
        return typed.device if typed.device.kind in ("cuda", "hpu") else device.detect("auto")
    if group == "prompts":
        return configs.prompts(typed.prompts)
    return getattr(typed, group)


@pytest.mark.parametrize("path", GROUPS, ids=lambda p: f"{p.parent.name}={p.stem}")
def test_every_choice_of_every_group_composes_and_instantiates(path: Path) -> None:
    group, choice = path.parent.name, path.stem
    primary = "analyze" if group == "analysis" else "generate"
    overrides = [f"{group}={choice}", *GIVEN.get(choice, []), "out=runs/x"]
    assert _instance(group, compose(primary, overrides=overrides))


def test_every_method_has_a_choice_whose_keys_are_its_fields() -> None:
    for name, kind in METHODS.items():
        written = OmegaConf.load(CONF / "method" / f"{name}.yaml")
        assert set(written) == {field.name for field in fields(kind)}
        assert written["name"] == name


def test_the_defaults_are_the_contracts() -> None:
    config = compose("generate", overrides=["out=runs/x"])
    assert config.seeds == [0, 1, 2]
    assert config.sampling == {
        "temperature": 0.75,
        "top_k": 50,
        "top_p": 1.0,
        "max_new_tokens": 512,
    }
    assert list(config.prompts["items"]) == [
        "describe",
        "backstory",
        "pretend",
        "keywords_characteristics",
        "keywords_personality",
    ]
    assert config.max_failed_share == 0.01
    assert (config.cluster.address, config.cluster.workers) == (None, None)


def test_prompts_can_be_replaced_by_a_yaml_or_csv_file(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("a: What?\nb: 'Who, then?'\n")
    (tmp_path / "p.csv").write_text('id,text\na,What?\nb,"Who, then?"\n', encoding="utf-8-sig")
    for name in ("p.yaml", "p.csv"):
        found = configs.prompts(PromptsConfig("x", {"c": "No."}, str(tmp_path / name)))
        assert found == {"a": "What?", "b": "Who, then?"}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.yaml", "- a\n- b\n", "not a mapping"),
        ("p.yaml", "a: [1\n", "no valid YAML"),
        ("p.yaml", "a: ' '\n", "prompt a is empty"),
        ("p.csv", "a;b\n1;2\n", "no columns id and text"),
        ("p.csv", "id,text\na,x\na,y\n", "line 3: the id a stands twice"),
        ("p.csv", "", "no columns id and text"),
        ("none.yaml", None, "cannot be read"),
    ],
)
def test_a_bad_prompts_file_is_told_in_one_sentence(
    name: str, text: str | None, says: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(LmmsteerError, match=says):
        configs.prompts(PromptsConfig("x", {}, str(tmp_path / name)))
