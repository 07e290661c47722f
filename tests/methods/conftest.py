"""Fixtures that several files of methods' tests share."""

import pytest

from lmmsteer.methods.ala import Ala
from tests.methods.ala_world import FAST, learning
from tests.tiny import tiny_lmm


@pytest.fixture(scope="session")
def fitted():
    """An artifact of ALA on the drawn pictures, and what its fit has said."""
    said = []
    artifact = Ala(**FAST).fit(tiny_lmm(), learning(say=said.append))
    return artifact, said
