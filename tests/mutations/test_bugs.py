"""The list of mistakes fits the code as it is; that tests notice them is `make mutate`."""

from pathlib import Path

import pytest

from tests.mutations.bugs import BUGS, Bug

ROOT = Path(__file__).parents[2]


def test_there_are_thirty_mistakes_or_more_and_no_two_share_a_name() -> None:
    assert len(BUGS) >= 30
    assert len({bug.name for bug in BUGS}) == len(BUGS)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_mistake_has_one_place_and_tests_that_exist(bug: Bug) -> None:
    text = (ROOT / bug.file).read_text()
    assert text.count(bug.old) == 1
    compile(text.replace(bug.old, bug.new), bug.file, "exec")
    for selected in bug.tests:
        path, _, name = selected.partition("::")
        assert (ROOT / path).exists()
        assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text() if name else True
