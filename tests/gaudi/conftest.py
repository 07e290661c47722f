"""The stand-in for Habana's package, in reach of these tests and of the processes they start."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

STAND_IN = str(Path(__file__).parent / "stand_in")
HERE = Path(__file__).parent
REASON = "optimum-habana is not installed here: make test-gaudi builds the environment that has it"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("optimum") and importlib.util.find_spec("optimum.habana"):
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture(autouse=True, scope="session")
def stand_in() -> Iterator[str]:
    """The path of the stand-in, on sys.path and in PYTHONPATH for the length of the session."""
    before = os.environ.get("PYTHONPATH")
    sys.path.insert(0, STAND_IN)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [STAND_IN, os.getcwd(), before]))
    yield STAND_IN
    sys.path.remove(STAND_IN)
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before
