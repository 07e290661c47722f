"""What every schedule answers: a small data set, its manifest, three cells of two models.

The rules of a schedule lie beside its output folder: how slow rows are, and which of them kill.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmmsteer import manifest
from lmmsteer.config import EngineConfig, SamplingConfig
from lmmsteer.datasets.base import Sample, picture_of_bytes
from lmmsteer.fleet.task import MethodSpec, ModelSpec, Task
from lmmsteer.fleet.work import Item
from lmmsteer.manifest import Manifest
from lmmsteer.schema import Cell
from lmmsteer.store import Store, open_store

DATASET = "people"
PICTURES, SHARD = 20, 2
PROMPTS = {"who": "Who is it?", "where": "Where is it?", "why": "Why?"}
SEEDS = (0, 1)
CELLS = (("large", "unsteered"), ("large", "ablation"), ("small", "unsteered"))
ROWS = SHARD * len(PROMPTS) * len(SEEDS)  # Of one shard.
SHARDS = len(CELLS) * PICTURES // SHARD


@dataclass
class People:
    """Twenty pictures that no engine here looks at."""

    name: str = DATASET

    def samples(self) -> Iterator[Sample]:
        for number in range(PICTURES):
            data = hashlib.sha256(str(number).encode()).digest() * 8
            name = f"{number:02}.png"
            yield Sample(name, lambda name=name, data=data: picture_of_bytes(name, data))


def build(out: Path) -> None:
    """The manifest, made once for a campaign and copied into every schedule's folder."""
    asked = manifest.identity({"name": DATASET}, PROMPTS, SEEDS, None, SHARD)
    manifest.build(open_store(str(out)), DATASET, People(), asked)


def copy(source: Path, out: Path) -> None:
    shutil.copytree(source / "manifest", out / "manifest", dirs_exist_ok=True)


def items(store: Store) -> list[Item]:
    """What has no part yet, a shard's cells one after the other, as a plan orders it."""
    made = manifest.load(store, DATASET)
    assert made is not None
    there = set(store.list("responses"))
    found = [item for model in ("large", "small") for item in _of_model(store, made, model)]
    return [item for item in found if f"{item.folder}/{item.part}" not in there]


def planned(store: Store) -> int:
    """Parts of a complete run."""
    made = manifest.load(store, DATASET)
    assert made is not None
    return len(made.shards) * len(CELLS)


def _of_model(store: Store, made: Manifest, model: str) -> Iterator[Item]:
    tasks = [task_of(store.root, *cell) for cell in CELLS if cell[0] == model]
    for shard in made.shards:
        for task in tasks:
            digests = (shard.rows_digest, shard.images_digest)
            yield Item(task, shard.name, shard.rows, label(task.folder), digests)


def task_of(out: str, model: str, method: str) -> Task:
    weights = hashlib.sha256(model.encode()).hexdigest()
    spec = ModelSpec(model, out, None, "auto", "auto", weights)  # Its rules lie beside `out`.
    attribute: dict[str, Any] = {"name": "none", "question": "", "words": []}
    cell = Cell(model, method, "none", DATASET)
    return Task(
        out=out,
        folder=cell.folder,
        dataset=DATASET,
        model=spec,
        method=MethodSpec(method, {}, attribute),
        sampling=SamplingConfig(),
        engine=EngineConfig(),
        fingerprint=hashlib.sha256(cell.folder.encode()).hexdigest(),
    )


def folders() -> list[str]:
    """The cells' folders below the output folder."""
    return [Cell(model, method, "none", DATASET).folder for model, method in CELLS]


def label(folder: str) -> str:
    """A cell as the journal names it."""
    return " ".join(word.partition("=")[2] for word in folder.split("/")[1:3])


def rules_of(out: Path | str) -> Path:
    return Path(f"{out}.rules.json")


def read_rules(out: Path | str) -> dict[str, Any]:
    return json.loads(rules_of(out).read_text())
