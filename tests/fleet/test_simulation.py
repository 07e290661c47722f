"""A thousand schedules of the simulator; `make simulate N=...` runs as many as wanted."""

from __future__ import annotations

import pytest

from tests.simulation import campaign

EACH = 250


@pytest.mark.parametrize("first", range(0, 1000, EACH))
def test_no_schedule_breaks_a_promise(first: int) -> None:
    tally = campaign.run(first, EACH)
    assert tally.failed == {}
    assert tally.schedules == EACH
