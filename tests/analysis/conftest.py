from __future__ import annotations

from pathlib import Path

import pytest

from lmmsteer.store import LocalStore
from tests.analysis import build


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


@pytest.fixture
def output(tmp_path: Path) -> build.Output:
    """An empty output folder, the same as `store`."""
    return build.Output(tmp_path)


def quiet(_: str) -> None:
    """For runs whose notes are not looked at."""
