"""The data sets, manifests and cells that schedules choose from: tiny, and made once a process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lmmsteer import manifest
from lmmsteer.config import ClusterConfig, DeviceConfig, EngineConfig, SamplingConfig
from lmmsteer.datasets.base import Sample, picture_of_bytes
from lmmsteer.fleet.cells import CellRecord
from lmmsteer.fleet.resolve import Job
from lmmsteer.fleet.task import MethodSpec, ModelSpec, Task
from lmmsteer.schema import Cell, Picture
from lmmsteer.store import open_store

OUT = "/sim/out"
NAME = "faces"
PROMPTS = {"who": "Who is this?", "what": "What are they doing?"}
STACK = {"torch": "2", "device": "cpu"}


@dataclass(frozen=True)
class Shape:
    """pictures in all and in a shard; prompts, seeds; cells as (model, method), the last picture
    missing or not."""

    pictures: int
    shard_images: int
    prompts: int
    seeds: int
    cells: tuple[tuple[str, str], ...]
    broken: bool = False


ONE = (("m0", "unsteered"),)
TWO = (("m0", "unsteered"), ("m0", "prompt"))
APART = (("m0", "unsteered"), ("m1", "unsteered"))
SHAPES = (
    Shape(2, 1, 1, 2, ONE),
    Shape(5, 2, 1, 1, TWO),
    Shape(6, 1, 2, 1, ONE),
    Shape(8, 2, 1, 2, ONE, broken=True),
    Shape(4, 2, 1, 3, APART),
    Shape(3, 1, 2, 2, (*TWO, ("m1", "prompt"))),
    Shape(12, 3, 2, 1, ONE),
    Shape(7, 3, 1, 1, APART, broken=True),
)


@dataclass
class Pictures:
    """A data set whose pictures are a few bytes each."""

    count: int
    broken: bool
    name: str = NAME

    def samples(self) -> Iterator[Sample]:
        for number in range(self.count):
            yield Sample(f"{number}.png", partial(self._read, number), f"set {number // 2}")

    def _read(self, number: int) -> Picture:
        name = f"{number}.png"
        if self.broken and number == self.count - 1:
            return Picture(name, None, None, "picture_missing", f"{name} is not there")
        return picture_of_bytes(name, b"\x89PNG%d" % number)


@dataclass(eq=False)
class Project:
    """files: the finished manifest's, below `out`. rows: of each shard, their row and image ids."""

    shape: Shape
    identity: dict[str, Any]
    source: Pictures
    files: dict[str, bytes]
    rows: tuple[tuple[tuple[str, str], ...], ...]
    made: dict[str, set[bytes]] = field(default_factory=dict)
    resolved: dict[tuple[Any, ...], list[Job]] = field(default_factory=dict)

    @cached_property
    def folders(self) -> list[str]:
        return [_cell(*names).folder for names in self.shape.cells]

    def part(self, number: int) -> str:
        return f"part-{number:05d}.parquet"

    def jobs(self, *asked: Any) -> list[Job]:
        """As a command line resolves them. asked: workers, max_failed_share, deadline."""
        if asked not in self.resolved:
            cells = range(len(self.shape.cells))
            self.resolved[asked] = [self._job(number, *asked) for number in cells]
        return self.resolved[asked]

    def _job(self, number: int, workers: int | None, share: float, deadline: float) -> Job:
        model, method = self.shape.cells[number]
        cell = _cell(model, method)
        sampling = SamplingConfig(max_new_tokens=number + 1)
        defining = {
            "model": {"digest": model},
            "method": {"name": method},
            "manifest": self.identity,
            "sampling": vars(sampling),
        }
        record = CellRecord(cell, {"model": {"name": model}}, defining, STACK)
        spec = ModelSpec(model, f"/models/{model}", None, "auto", "auto", model)
        steering: Any = SimpleNamespace(
            handed=[],
            spec=MethodSpec("unsteered", {}, {"name": "none", "question": None, "words": []}),
        )
        task = Task(
            OUT,
            cell.folder,
            NAME,
            spec,
            steering.spec,
            sampling,
            EngineConfig(),
            record.digest,
        )
        config: Any = SimpleNamespace(
            mixed_stack=False,
            max_failed_share=share,
            cluster=ClusterConfig(workers=workers, deadline=deadline, drain=5.0),
            device=DeviceConfig(),
        )
        return Job(config, steering, self.source, self.identity, record, task)


def _cell(model: str, method: str) -> Cell:
    return Cell(model, method, "none", NAME)


@cache
def project(number: int) -> Project:
    """A data set with its manifest, made by the production code on a real disk."""
    shape = SHAPES[number]
    source = Pictures(shape.pictures, shape.broken)
    prompts = dict(list(PROMPTS.items())[: shape.prompts])
    seeds = list(range(shape.seeds))
    about = {"name": NAME, "pictures": shape.pictures}
    identity = manifest.identity(about, prompts, seeds, None, shape.shard_images)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        made = manifest.build(store, NAME, source, identity)
        files = {path: store.read_bytes(path) for path in store.list("manifest")}
        requests = [manifest.read_rows(store, NAME, shard.name) for shard in made.shards]
        assert Path(folder).is_dir()
    rows = tuple(tuple((row.row_id, row.image_id) for row in shard) for shard in requests)
    return Project(shape, identity, source, files, rows)
