"""One seed is one corruption: made, found, repaired, and the folder as it was before."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from lmmsteer.fleet.verify import Settings, aside, stamp, verify
from lmmsteer.store import LocalStore
from tests.corruption import tree
from tests.corruption.corruptions import KINDS, Done, Kind, Place

ALONE = Settings(workers=1)


@dataclass
class Tally:
    """made: corruptions by kind. missed: what went wrong, with the seed that shows it again."""

    made: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)


class Campaign:
    """A complete run in a folder, corrupted and mended again and again."""

    def __init__(self, folder: Path) -> None:
        self.files = tree.build(folder)
        self.place = Place(folder, self.files, tree.older(LocalStore(folder)))
        self.tally = Tally()

    def run(self, seed: int) -> None:
        """Corrupt by a seed, and note whatever is not as promised."""
        random = Random(seed)
        self.corrupt(random.choice(KINDS), random, seed)

    def corrupt(self, kind: Kind, random: Random, seed: int) -> None:
        done = kind(self.place, random)
        self.tally.made[kind.__name__] += 1
        label = f"seed {seed}: {kind.__name__}, {done.what}: {', '.join(sorted(done.named))}"
        try:
            self._mend(done, label)
        except Exception as error:
            self._miss(label, f"{type(error).__name__}: {error}")
        self._restore(label)

    def _mend(self, done: Done, label: str) -> None:
        """What a user does: verify, verify repair=true, and the commands of before once more."""
        found = verify(LocalStore(self.place.folder), ALONE)
        named = {fault.path for fault in found.faults}
        if unnamed := done.named - named:
            self._miss(label, f"not named: {unnamed}")
        if more := named - done.named:
            self._miss(label, f"healthy and named: {more}")
        aside(LocalStore(self.place.folder), found.faults, stamp())
        tree.complete(LocalStore(self.place.folder))

    def _miss(self, label: str, why: str) -> None:
        self.tally.missed.append(f"{label}: {why}")

    def _restore(self, label: str) -> None:
        """Compare with the undisturbed files, and put them back where they differ."""
        folder = self.place.folder
        now = tree.state(folder)
        if now != self.files:
            different = {p for p in {*now, *self.files} if now.get(p) != self.files.get(p)}
            self._miss(label, f"not as before: {different}")
            for path in different:
                (folder / path).unlink(missing_ok=True)
                if path in self.files:
                    self.place.write(path, self.files[path])
        shutil.rmtree(folder / "trash", ignore_errors=True)


def run(first: int, count: int) -> Tally:
    """Seeds first .. first + count - 1, in a folder of their own."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        campaign = Campaign(Path(folder) / "out")
        for seed in range(first, first + count):
            campaign.run(seed)
        return campaign.tally
