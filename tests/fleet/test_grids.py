"""Experiments: unions of grids, narrowed by the command line; the files of conf/experiment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from jobs.__main__ import CONF
from lmmsteer.config import prompts
from lmmsteer.datasets import open_dataset
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import grids, resolve
from lmmsteer.fleet.launcher import GROUPS
from tests import sweeps

PARAMS = {"model": ["big", "small"], "method": "plain"}
GRIDS = [
    {"dataset": "faces", "attribute": ["age", "race"], "seed": 1},
    {"dataset": "street", "attribute": ["race"]},
]
OWN = {"dataset", "attribute", "seed"}


def asked(**values: list[str]) -> list[list[str]]:
    found = grids.narrowed(grids.read(PARAMS, GRIDS), OWN, values)
    return [sorted(one) for one in grids.members(found)]


def test_an_experiment_is_the_union_of_its_grids_each_with_what_all_share() -> None:
    found = asked()
    assert len(found) == 2 * 2 + 2
    assert found[0] == ["attribute=age", "dataset=faces", "method=plain", "model=big", "seed=1"]
    assert found[-1] == ["attribute=race", "dataset=street", "method=plain", "model=small"]
    assert asked(method=["plain", "other"]) != found
    assert {"method=other"} < {word for one in asked(method=["other"]) for word in one}


def test_values_that_a_grid_has_choose_among_the_grids() -> None:
    assert len(asked(dataset=["street"])) == 2
    assert len(asked(attribute=["age"])) == 2
    assert len(asked(attribute=["race"], model=["big"])) == 2
    assert len(asked(seed=["1"])) == 6  # A grid that does not name it takes it.


def test_values_that_no_grid_has_replace_those_of_all() -> None:
    found = asked(dataset=["mine"], model=["tiny"])
    assert found == [
        ["attribute=age", "dataset=mine", "method=plain", "model=tiny", "seed=1"],
        ["attribute=race", "dataset=mine", "method=plain", "model=tiny", "seed=1"],
        ["attribute=race", "dataset=mine", "method=plain", "model=tiny"],
    ]
    assert asked(attribute=["race"], dataset=["faces"], seed=["2"], model=["a"], x=["1"]) == [
        ["attribute=race", "dataset=faces", "method=plain", "model=a", "seed=2", "x=1"]
    ]


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(LmmsteerError, match="dataset=mine is not in the experiment, and dataset=f"):
        asked(dataset=["faces", "mine"])
    with pytest.raises(LmmsteerError, match="no grid with all of attribute=age dataset=street"):
        asked(attribute=["age"], dataset=["street"], model=["big"])


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("/a folder/it's, {so}=1", "/a folder/it's, {so}=1"),
        ("[pair]", ["pair"]),
        (None, None),
        (True, True),
        (2.5, 2.5),
        ("hub/llava-1.5", "hub/llava-1.5"),
    ],
)
def test_a_value_is_written_as_hydras_grammar_reads_it(value: Any, read: Any) -> None:
    ((override,),) = list(grids.members(grids.read({"key": value}, [])))
    (parsed,) = OverridesParser.create().parse_overrides([override])
    found = parsed.value()
    assert (str(found) if isinstance(read, str) else found) == read


@pytest.fixture
def swept() -> Iterator[Any]:
    """The members of an experiment, composed as a verb gets them."""
    with sweeps.started() as hydra:
        yield lambda verb, *overrides: sweeps.members(hydra, verb, overrides)


SIZES = {  # Members, of which those that need no attribute are cells of one.
    "paper_steering": ("generate", 2 * 3 * (4 + 3 + 2)),
    "paper_steering_fit": ("fit", 2 * 4),
    "paper_ala": ("generate", 3 * 7 + 3 * 6 + 3 * 4 + 5 + 2),
    "paper_ala_fit": ("fit", 4 + 3 + 3 * 3 + 3 + 1 + 3),
    "paper_howard": ("generate", 1),
}


def test_the_sizes_are_of_all_experiments() -> None:
    assert {path.stem for path in (CONF / "experiment").glob("*.yaml")} == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_every_member_of_an_experiment_is_whole_and_its_folders_bear_plain_names(
    name: str, swept: Any
) -> None:
    verb, size = SIZES[name]
    found = swept(verb, f"experiment={name}", "data=/a folder", "out=x")
    assert len(found) == size
    for member in found:
        assert member.error is None
        plain = OmegaConf.to_container(member.config, resolve=True)
        typed = resolve.typed_config(plain)
        assert resolve_method(typed)
        assert prompts(typed.prompts)
        assert open_dataset(typed.dataset).path.startswith("/a folder/")  # type: ignore[attr-defined]
        assert [member.suffix(group) for group in GROUPS] == [""] * 4


def resolve_method(typed: Any) -> Any:
    return resolve.method_of(typed)[1]


def test_what_the_command_line_varies_still_names_the_folders(swept: Any) -> None:
    given = ["experiment=paper_steering", "dataset=facet", "attribute=age", "model=demo", "out=x"]
    found = swept("generate", *given, "limit=4,8", "method=steered_gradient")
    assert [member.suffix("dataset") for member in found] == ["+limit-4", "+limit-8"]
    assert [member.config.attribute.name for member in found] == ["age", "age"]
