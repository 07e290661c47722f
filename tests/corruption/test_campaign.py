"""A small share of the campaign: `make corrupt` runs thousands."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from lmmsteer import seal
from lmmsteer.fleet.verify import contents, survey, units
from tests.corruption import corruptions
from tests.corruption.campaign import Campaign

SEEDS = 60


def test_sixty_random_corruptions_are_named_and_mended_to_the_same_bytes(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "out")
    for seed in range(SEEDS):
        campaign.run(seed)
    assert campaign.tally.missed == []
    assert campaign.tally.made.total() == SEEDS
    assert len(campaign.tally.made) >= 10


def nothing(*arguments: object) -> None:
    """A check that finds no fault."""


# What a verify without one of its checks would overlook, and where the check is.
BLIND = {
    "seal": (seal, "holds", lambda data: True, corruptions.flip_end),
    "fingerprint": (contents, "check_fingerprint", nothing, corruptions.stale),
    "place in the manifest": (contents, "check_recorded", nothing, corruptions.shuffle),
    "the manifest's ids": (units, "check_answers", nothing, corruptions.shuffle),
    "names": (survey.Survey, "_compare", nothing, corruptions.delete),
}


@pytest.mark.parametrize("check", BLIND)
def test_the_campaign_notices_a_verify_without_its_check(
    check: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    where, name, blind, corrupt = BLIND[check]
    campaign = Campaign(tmp_path / "out")
    monkeypatch.setattr(where, name, blind)
    for seed in range(40):
        campaign.corrupt(corrupt, Random(seed), seed)
        if campaign.tally.missed:
            return
    raise AssertionError(f"nobody misses {check}")
