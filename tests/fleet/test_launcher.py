from collections.abc import Iterator

import pytest

from lmmsteer.fleet import launcher
from tests import sweeps


@pytest.fixture
def members() -> Iterator[object]:
    """Compose the members of a sweep as `-m` does."""
    with sweeps.started() as hydra:
        yield lambda *overrides: sweeps.members(hydra, "generate", overrides)


def test_the_four_names_alone_add_nothing_to_a_folder(members) -> None:  # type: ignore[no-untyped-def]
    for member in members("method=unsteered,random_direction", "dataset=demo,demo_fit", "out=x"):
        assert [member.suffix(group) for group in launcher.GROUPS] == [""] * 4


def test_what_a_sweep_varies_beyond_the_names_is_said_where_it_belongs(members) -> None:  # type: ignore[no-untyped-def]
    found = members(
        "method=random_direction", "method.seed=1,2", "sampling.temperature=0,0.5", "out=x"
    )
    names = [member.suffix("method") for member in found]
    assert names == [
        "+seed-1+sampling.temperature-0",
        "+seed-1+sampling.temperature-0.5",
        "+seed-2+sampling.temperature-0",
        "+seed-2+sampling.temperature-0.5",
    ]
    assert {member.suffix("dataset") for member in found} == {""}


def test_what_changes_the_manifest_is_part_of_the_data_sets_name(members) -> None:  # type: ignore[no-untyped-def]
    found = members("dataset.seed=0,1", "limit=4,8", "out=x")
    assert len({member.suffix("dataset") for member in found}) == 4
    assert found[0].suffix("dataset") == "+seed-0+limit-4"


def test_ranges_and_lists_of_hydra_work(members) -> None:  # type: ignore[no-untyped-def]
    found = members("method=random_direction", "method.seed=range(0,3)", "seeds=[0]", "out=x")
    assert [member.config.method.seed for member in found] == [0, 1, 2]
    assert found[0].label == "method.seed=0"


def test_a_member_that_does_not_compose_leaves_the_others(members) -> None:  # type: ignore[no-untyped-def]
    good, bad = members("method=unsteered,nope", "out=x")
    assert good.config is not None
    assert bad.config is None
    assert bad.label == "method=nope"
    assert bad.error is not None
