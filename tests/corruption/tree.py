"""A small complete run without models or Ray, and what `manifest` and `resume` make again of it.

Two data sets, three cells, one artifact. Every file is a pure function of what is written here;
answers are made up from the row id.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lmmsteer import manifest
from lmmsteer.config import EngineConfig, SamplingConfig
from lmmsteer.datasets.base import Sample, picture_of_bytes, read_picture
from lmmsteer.fleet import cells
from lmmsteer.fleet.cells import CellRecord
from lmmsteer.fleet.commit import part_bytes
from lmmsteer.fleet.task import MethodSpec, ModelSpec, Task
from lmmsteer.methods.artifact import Artifact
from lmmsteer.schema import Cell, Request, Response
from lmmsteer.store import LocalStore, Store

PROMPTS = {"what": "What is in the picture?", "wer": "Wer ist das? Ä€😀 Describe the person."}
TEXT = "A nurse 是 with a \x00 hat \ufeff and “quotes”, naïve,\nstands in a 🏥 room ."
WORDS = TEXT.split(" ")
ARTIFACT = "artifacts/model=tiny/method=steered_dataset/attribute=gender/artifact.safetensors"


@cache
def picture(color: int) -> bytes:
    """A picture of one colour, as PNG."""
    sink = io.BytesIO()
    Image.new("RGB", (12, 9), (color * 37 % 256, color * 91 % 256, color)).save(sink, "PNG")
    return sink.getvalue()


@dataclass(frozen=True)
class Colors:
    """Pictures of one colour each, and after every fourth one that is missing."""

    name: str
    first: int
    count: int

    def samples(self) -> Iterator[Sample]:
        for number in range(self.first, self.first + self.count):
            name = f"{self.name}-{number}.png"
            shown = picture_of_bytes(name, picture(number))
            if number % 4 == 3:
                shown = read_picture(name, Path("/nowhere") / name, Path("/nowhere"))
            labels = {"gender": ("woman", "man")[number % 2]}
            yield Sample(name, lambda shown=shown: shown, "set", labels, {"füße": "a\tb"})

    @property
    def identity(self) -> dict[str, Any]:
        return manifest.identity({"name": self.name}, PROMPTS, [0, 7], None, shard_images=2)


SOURCES = {s.name: s for s in (Colors("colors", 0, 7), Colors("more", 20, 4))}


def artifact() -> Artifact:
    return Artifact({"directions": torch.eye(2, 16)}, {"model": "tiny", "layer": 3})


def record(method: str, dataset: str, temperature: float = 0.75) -> CellRecord:
    """A cell's record; `steered_dataset` rests on the artifact."""
    steered = method == "steered_dataset"
    digest = hashlib.sha256(artifact().to_bytes()).hexdigest() if steered else None
    cell = Cell("tiny", method, "gender" if steered else "none", dataset)
    sampling = {"temperature": temperature, "top_k": 50}
    return CellRecord(
        cell,
        {"sampling": sampling, "seeds": [0, 7], "note": "Größe 😀"},
        {
            "model": {"digest": "ab" * 32},
            "method": {"name": method, "alpha": 1.0, "artifact": digest},
            "manifest": SOURCES[dataset].identity,
            "sampling": sampling,
        },
        {"torch": "2.13.0", "slots": None},
        artifact=ARTIFACT if steered else None,
    )


RECORDS = [record("unsteered", "colors"), record("steered_dataset", "colors")]
RECORDS.append(record("unsteered", "more"))


def task(made: CellRecord, store: Store) -> Task:
    """What a worker would be told."""
    model = ModelSpec("tiny", "/tiny", None, "float32", "auto", "ab" * 32)
    method = MethodSpec(made.cell.method, {}, {"name": made.cell.attribute})
    where = (store.root, made.cell.folder, made.cell.dataset)
    return Task(*where, model, method, SamplingConfig(), EngineConfig(), made.digest)


def answer(request: Request, method: str) -> Response:
    """A made-up answer: long, short, empty or failed, by the row id."""
    digest = hashlib.sha256(f"{request.row_id}{method}".encode()).digest()
    if digest[0] < 90:
        return Response.failed(request, ("picture_missing", "nonfinite")[digest[1] % 2], "no “x”")
    tokens = [b % 16 for b in digest[2 : 2 + digest[1] % 20]]
    ids = (request.row_id, request.image_id, request.prompt_id, request.seed)
    text = " ".join(WORDS[token] for token in tokens)
    return Response(*ids, text, tokens, len(tokens), ("eos", "length")[digest[2] % 2])


def answers(store: Store, made: CellRecord, part: str) -> bytes:
    """A response part, made from the manifest's rows alone."""
    rows = manifest.read_rows(store, made.cell.dataset, part)
    responses = [answer(row, made.cell.method) for row in rows]
    failed = Counter(r.error_kind for r in responses if r.error_kind is not None)
    return part_bytes(responses, task(made, store), failed)


def complete(store: Store) -> None:
    """What the commands of before do: everything that is not there is made."""
    for name, source in SOURCES.items():
        manifest.build(store, name, source, source.identity)
    store.create(ARTIFACT, artifact().to_bytes())
    for made in RECORDS:
        cells.record(store, made, cells.gate(store, made, mixed_stack=False))
        there = cells.done(store, made.cell.folder)
        found = manifest.load(store, made.cell.dataset)
        assert found is not None
        for shard in found.shards:
            if shard.name not in there:
                path = f"{made.cell.folder}/{shard.name}"
                store.create(path, answers(store, made, shard.name))


def state(folder: Path) -> dict[str, bytes]:
    """Every file of an output folder but the trash, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {path: data for path, data in found.items() if not path.startswith("trash/")}


def build(folder: Path) -> dict[str, bytes]:
    """A complete run in a new folder, and its files."""
    complete(LocalStore(folder))
    return state(folder)


def older(store: Store) -> Mapping[str, bytes]:
    """Files of an earlier attempt with another temperature, whole in themselves: by their path."""
    made = record("unsteered", "colors", temperature=0.2)
    shards = manifest.load(store, "colors")
    assert shards is not None
    parts = {f"{made.cell.folder}/{s.name}": answers(store, made, s.name) for s in shards.shards}
    return {**parts, f"{made.cell.folder}/_cell.json": made.to_bytes()}
