"""The whole path of `python -m tests.scale` on 20,000 rows, and a build that dies anywhere."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest

from lmmsteer import manifest
from lmmsteer.disk import Disk
from lmmsteer.schema import row_id
from lmmsteer.store.local import LocalStore
from tests.scale import phases, world
from tests.scale.world import NAME, PROMPTS, ROWS_A_PICTURE, SEEDS, Made

PICTURES = 1334
CHANGES = (
    "make_folder", "create", "extend", "write", "sync", "close", "sync_folder", "link",
    "rename_new", "replace", "remove",
)  # fmt: skip


class Died(BaseException):
    """The machine is gone."""


class Dying(Disk):
    """A disk that does so many more operations, and none after them, whichever thread asks."""

    def __init__(self, operations: int) -> None:
        self._left = operations
        self._lock = threading.Lock()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in CHANGES:
            return found

        def counted(*arguments: Any) -> Any:
            with self._lock:
                self._left -= 1
                if self._left < 0:
                    raise Died
            return found(*arguments)

        return counted


def whole(store: LocalStore) -> dict[str, bytes]:
    return {path: store.read_bytes(path) for path in store.list()}


def test_twenty_thousand_rows_are_written_answered_scanned_and_verified(tmp_path: Path) -> None:
    identity = world.asked(PICTURES, 14)
    figures = {name: phases.run(name, tmp_path, identity) for name in ("build", "answer", "scan")}
    assert figures["build"]["rows"] == PICTURES * ROWS_A_PICTURE == 20_010
    assert figures["build"]["shards"] == 96
    assert figures["scan"]["rows_failed"] == figures["answer"]["rows_failed"] > 0
    assert figures["scan"]["shards_left"] == 96 - figures["answer"]["parts_answered"] == 3
    checked = phases.run("verify", tmp_path, identity)
    assert checked["parts_there"] == 2 * 96 + 93


def test_the_rows_of_a_large_manifest_are_every_picture_with_every_prompt_and_seed_once(
    tmp_path: Path,
) -> None:
    store, identity = LocalStore(tmp_path), world.asked(200, 63)
    made = manifest.build(store, NAME, Made(200), identity)
    rows = [row for s in made.shards for row in manifest.read_rows(store, NAME, s.name)]
    shas = {s.image_id: s.read().sha256 for s in Made(200).samples()}
    expected = [
        row_id(image_id, sha, prompt, seed)
        for image_id, sha in shas.items()
        for prompt in PROMPTS.values()
        for seed in SEEDS
    ]
    assert [row.row_id for row in rows] == expected
    assert len(set(expected)) == 200 * ROWS_A_PICTURE


@pytest.mark.parametrize("seed", range(6))
def test_a_build_that_dies_at_any_operation_again_and_again_ends_with_the_same_bytes(
    seed: int, tmp_path: Path
) -> None:
    identity, chance = world.asked(120, 7), random.Random(seed)
    undisturbed = LocalStore(tmp_path / "a")
    manifest.build(undisturbed, NAME, Made(120), identity)
    deaths, there = 0, set[str]()
    while True:
        store = LocalStore(tmp_path / "b", Dying(chance.randrange(120)))
        source = Made(120)
        try:
            manifest.build(store, NAME, source, identity)
        except Died:
            deaths += 1
        kept = [p for p in there if p.startswith(f"{manifest.folder(NAME)}/rows/")]
        assert not {int(p[-13:-8]) for p in kept} & {number // 7 for number in source.reads}
        now = set(store.list())
        assert there <= now
        there = now
        if f"{manifest.folder(NAME)}/_manifest.json" in there:
            break
    assert deaths > 0, "no death was injected: the test shows nothing"
    assert whole(LocalStore(tmp_path / "b")) == whole(undisturbed)
