"""A data set x prompts x seeds as Parquet parts, ordered by picture; and what of them is there.

out/manifest/dataset=D/{images,rows}/part-*.parquet and _manifest.json. A part holds whole pictures;
its images part is written before its rows part, so a rows part says that both are there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from lmmsteer import fingerprint, parts
from lmmsteer.datasets.base import DataSet, Sample
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.schema import (
    IMAGES,
    LABELS,
    ROWS,
    SCHEMA_VERSION,
    Picture,
    Request,
    from_table,
    row_id,
    to_table,
)
from lmmsteer.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """One part of a manifest: how many rows and pictures, and the digests of both files."""

    name: str
    rows: int
    images: int
    rows_digest: str
    images_digest: str


@dataclass(frozen=True)
class Manifest:
    """A finished manifest. `identity` is what it was made from."""

    dataset: str
    identity: Mapping[str, Any]
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def images(self) -> int:
        return sum(shard.images for shard in self.shards)


def folder(dataset: str) -> str:
    return f"manifest/dataset={dataset}"


def identity(
    dataset: Mapping[str, Any],
    prompts: Mapping[str, str],
    seeds: Sequence[int],
    limit: int | None,
    shard_images: int,
) -> dict[str, Any]:
    """What defines a manifest: another value of any of these is another manifest."""
    return {
        "dataset": dict(dataset),
        "prompts": dict(prompts),
        "seeds": list(seeds),
        "limit": limit,
        "shard_images": shard_images,
        "schema": SCHEMA_VERSION,
    }


def load(store: Store, dataset: str) -> Manifest | None:
    """The manifest of a data set below `out`, or None where it is not there, or not yet whole."""
    path = f"{folder(dataset)}/_manifest.json"
    if not store.exists(path):
        return None
    try:
        record = json.loads(store.read_bytes(path))
        shards = tuple(Shard(**shard) for shard in record["shards"])
        return Manifest(dataset, record["identity"], shards)
    except (ValueError, KeyError, TypeError) as error:
        raise LmmsteerError(
            f"{store.root}/{path} is damaged: {error}.",
            "Move it aside and run `lmmsteer manifest` with the same overrides again.",
        ) from error


def gate(store: Store, dataset: str, asked: Mapping[str, Any]) -> Manifest | None:
    """The manifest that is there, refused where it was made from anything else than `asked`."""
    found = load(store, dataset)
    if found is not None:
        _refuse(store, dataset, found.identity, asked)
    return found


def missing(store: Store, manifest: Manifest) -> list[str]:
    """Names of parts of which a file is not there."""
    there = set(store.list(folder(manifest.dataset)))
    base = folder(manifest.dataset)
    return [
        shard.name
        for shard in manifest.shards
        if not {f"{base}/rows/{shard.name}", f"{base}/images/{shard.name}"} <= there
    ]


def build(store: Store, name: str, source: DataSet, asked: Mapping[str, Any]) -> Manifest:
    """Write what is missing of a manifest, then `_manifest.json`. Run again it does nothing more.

    Raises: LmmsteerError for an empty data set, a repeated image id or another manifest's folder;
    RunFailed where a part that is made again differs from what is recorded.
    """
    found = gate(store, name, asked)
    if found is not None and not missing(store, found):
        return found
    mark = fingerprint.digest(asked)
    there = set(store.list(folder(name)))
    seen: set[str] = set()
    samples = islice(source.samples(), asked["limit"])
    shards: list[Shard] = []
    for number, chunk in enumerate(_chunks(samples, asked["shard_images"])):
        _refuse_repeated(chunk, seen)
        shards.append(_build_part(store, name, parts.part_name(number), chunk, asked, mark, there))
        _refuse_changed(store, name, found, shards[-1], number)
    if not shards:
        raise LmmsteerError(f"The data set {name} has no pictures.", "Check dataset.path.")
    made = Manifest(name, asked, tuple(shards))
    record = {
        "identity": asked,
        "rows": made.rows,
        "images": made.images,
        "shards": [vars(shard) for shard in shards],
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    store.create(f"{folder(name)}/_manifest.json", text.encode())
    return made


def read_rows(store: Store, dataset: str, part: str) -> list[Request]:
    """The rows of a shard, in the manifest's order."""
    return from_table(parts.read(store, f"{folder(dataset)}/rows/{part}", ROWS), Request)


def read_pictures(store: Store, dataset: str, part: str) -> dict[str, Picture]:
    """The pictures of a shard by image id."""
    table = parts.read(store, f"{folder(dataset)}/images/{part}", IMAGES)
    return {picture.image_id: picture for picture in from_table(table, Picture)}


def _build_part(
    store: Store,
    dataset: str,
    part: str,
    samples: list[Sample],
    asked: Mapping[str, Any],
    mark: str,
    there: set[str],
) -> Shard:
    rows_path = f"{folder(dataset)}/rows/{part}"
    images_path = f"{folder(dataset)}/images/{part}"
    if not {rows_path, images_path} <= there:
        pictures = [sample.read() for sample in samples]
        images = to_table(pictures, IMAGES)
        store.create(images_path, parts.to_bytes(images, mark))
        rows = to_table(_requests(samples, pictures, asked), ROWS)
        store.create(rows_path, parts.to_bytes(rows, mark))
    rows_footer = parts.read_footer(store, rows_path)
    images_footer = parts.read_footer(store, images_path)
    if {rows_footer.fingerprint, images_footer.fingerprint} != {mark}:
        raise LmmsteerError(
            f"{store.root}/{rows_path} was made with another data set, prompts, seeds or limit.",
            "Choose another folder: out=FOLDER",
        )
    return Shard(
        part,
        rows_footer.rows,
        images_footer.rows,
        rows_footer.meta["lmmsteer.digest"],
        images_footer.meta["lmmsteer.digest"],
    )


def _requests(
    samples: list[Sample], pictures: list[Picture], asked: Mapping[str, Any]
) -> Iterator[Request]:
    for sample, picture in zip(samples, pictures, strict=True):
        labels = {label: sample.labels.get(label) for label in LABELS}
        for prompt_id, prompt in asked["prompts"].items():
            for seed in asked["seeds"]:
                yield Request(
                    row_id=row_id(sample.image_id, picture.sha256, prompt, seed),
                    image_id=sample.image_id,
                    prompt_id=prompt_id,
                    prompt=prompt,
                    seed=seed,
                    group_id=sample.group_id,
                    extra=sample.extra,
                    **labels,
                )


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _refuse_repeated(samples: list[Sample], seen: set[str]) -> None:
    for sample in samples:
        if sample.image_id in seen:
            raise LmmsteerError(
                f"The image id {sample.image_id} occurs twice in the data set.",
                "Every picture needs an id of its own: mend the metadata file.",
            )
        seen.add(sample.image_id)


def _refuse_changed(
    store: Store, name: str, found: Manifest | None, made: Shard, number: int
) -> None:
    if found is not None and (number >= len(found.shards) or found.shards[number] != made):
        raise RunFailed(
            f"{store.root}/{folder(name)}: the pictures of {made.name} are not the old ones.",
            "Bring the old pictures back, or make a new manifest: out=FOLDER",
        )


def _refuse(store: Store, name: str, recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    where = f"{store.root}/{folder(name)}"
    mend = "Choose another folder (out=FOLDER), or give the recorded values."
    fingerprint.refuse_if_different(where, recorded, asked, mend)
