"""A data set x prompts x seeds as Parquet parts, ordered by picture; and what of them is there.

out/manifest/dataset=D/{images,rows}/part-*.parquet and _manifest.json. A part holds whole pictures;
its images part is written before its rows part, so a rows part says that both are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

from lmmsteer import fingerprint, parts, repeats, seal
from lmmsteer.ahead import in_order
from lmmsteer.datasets.base import DataSet, Sample
from lmmsteer.errors import LmmsteerError
from lmmsteer.prompts import PLACE, filled
from lmmsteer.schema import IMAGES, ROWS, SCHEMA_VERSION, Picture, Request, from_table
from lmmsteer.shards import Maker, Shard, changed
from lmmsteer.store import Store

THREADS = 8

T = TypeVar("T")


@dataclass(frozen=True)
class Manifest:
    """A finished manifest. `identity` is what it was made from."""

    dataset: str
    identity: Mapping[str, Any]
    shards: tuple[Shard, ...]

    @cached_property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @cached_property
    def images(self) -> int:
        return sum(shard.images for shard in self.shards)


def folder(dataset: str) -> str:
    return f"manifest/dataset={dataset}"


def path_of(dataset: str) -> str:
    return f"{folder(dataset)}/_manifest.json"


def identity(
    dataset: Mapping[str, Any],
    prompts: Mapping[str, str],
    seeds: Sequence[int],
    limit: int | None,
    shard_images: int,
    sample: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What defines a manifest: another value of any of these is another manifest.

    sample: what was drawn of the data set, where not all was taken.
    """
    drawn = {"sample": dict(sample)} if sample else {}
    return {
        **drawn,
        "dataset": dict(dataset),
        "prompts": dict(prompts),
        "seeds": list(seeds),
        "limit": limit,
        "shard_images": shard_images,
        "schema": SCHEMA_VERSION,
    }


def load(store: Store, dataset: str) -> Manifest | None:
    """The manifest of a data set below `out`, or None where it is not there, or not yet whole."""
    path = path_of(dataset)
    try:
        record = seal.read_record(store.read_bytes(path))
        shards = tuple(Shard(**shard) for shard in record["shards"])
        return Manifest(dataset, record["identity"], shards)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise LmmsteerError(
            f"{store.root}/{path} is damaged: {error}.",
            f"Move it aside: lmmsteer verify repair=true out={store.root}",
        ) from error


def gate(
    store: Store, dataset: str, asked: Mapping[str, Any], known: Manifest | None = None
) -> Manifest | None:
    """The manifest that is there, refused where it was made from anything else than `asked`.

    known: it, where it has been read before.
    """
    found = known or load(store, dataset)
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
    RunFailed where the data set no longer shows what a part or the record holds.
    """
    found = gate(store, name, asked)
    if found is not None and not missing(store, found):
        return found
    there = frozenset(store.list(folder(name)))
    images = _count(name, source, asked)
    _refuse_changed(store, name, found, images, there, -(-images // asked["shard_images"]))
    recorded = found.shards if found is not None else ()
    maker = Maker(store, folder(name), asked, fingerprint.digest(asked), there, recorded)
    chunks = enumerate(_chunks(samples_of(source, asked), asked["shard_images"]))
    shards: list[Shard] = []
    for shard in in_order(lambda chunk: maker.shard(*chunk), chunks, THREADS):
        if found is not None and found.shards[len(shards)] != shard:
            raise changed(store, folder(name), shard.name)
        shards.append(shard)
    store.collect(folder(name))  # What a killed run made is durable before the record counts it.
    made = Manifest(name, asked, tuple(shards))
    if found is None and not store.create(path_of(name), seal.write_record(_record(made))):
        return gate(store, name, asked) or made
    return made


def read_rows(store: Store, dataset: str, part: str) -> list[Request]:
    """The rows of a shard, in the manifest's order."""
    return from_table(parts.read(store, f"{folder(dataset)}/rows/{part}", ROWS), Request)


def read_pictures(store: Store, dataset: str, part: str) -> dict[str, Picture]:
    """The pictures of a shard by image id."""
    table = parts.read(store, f"{folder(dataset)}/images/{part}", IMAGES)
    return {picture.image_id: picture for picture in from_table(table, Picture)}


def _record(made: Manifest) -> dict[str, Any]:
    return {
        "identity": made.identity,
        "rows": made.rows,
        "images": made.images,
        "shards": [asdict(shard) for shard in made.shards],
    }


def samples_of(source: DataSet, asked: Mapping[str, Any]) -> Iterator[Sample]:
    """The pictures that something is asked of, up to the limit."""
    found = source.samples()
    if all(PLACE.search(text) for text in asked["prompts"].values()):
        prompts = asked["prompts"].values()
        found = (one for one in found if any(filled(text, one.labels) for text in prompts))
    return islice(found, asked["limit"])


def no_pictures(name: str, asked: Mapping[str, Any]) -> LmmsteerError:
    """The refusal of a data set of which no picture is asked anything."""
    prompts = asked["prompts"].values()
    places = {place for text in prompts for place in PLACE.findall(text)}
    if places and all(PLACE.search(text) for text in prompts):
        return LmmsteerError(
            f"The prompts ask about {', '.join(f'[{place}]' for place in sorted(places))}, and no"
            f" picture of {name} has that label.",
            "Add prompts that hang on no label, or choose a data set that has it.",
        )
    return LmmsteerError(f"The data set {name} has no pictures.", "Check dataset.path.")


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _count(name: str, source: DataSet, asked: Mapping[str, Any]) -> int:
    """The pictures of a data set; one that can have no manifest is refused."""
    images, repeated = repeats.count(lambda: (s.image_id for s in samples_of(source, asked)))
    if not images:
        raise no_pictures(name, asked)
    if repeated is not None:
        raise LmmsteerError(
            f"The image id {repeated} occurs twice in the data set.",
            "Every picture needs an id of its own: mend the metadata file.",
        )
    return images


def _refuse_changed(
    store: Store, name: str, found: Manifest | None, images: int, there: Set[str], shards: int
) -> None:
    """Refuse a data set that has not the pictures of the parts that are there."""
    if found is not None and found.images != images:
        raise LmmsteerError(
            f"{store.root}/{folder(name)} was made of {found.images} pictures, and the data set"
            f" has {images} now.",
            "Bring the old pictures back, or make a new manifest: out=FOLDER",
        )
    base = folder(name)
    kinds = (f"{base}/rows", f"{base}/images")
    expected = {f"{kind}/{parts.part_name(n)}" for kind in kinds for n in range(shards)}
    for path in sorted(there - expected):
        kind, _, part = path.rpartition("/")
        if kind in kinds and part.startswith("part-"):
            raise changed(store, base, part)


def _refuse(store: Store, name: str, recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    where = f"{store.root}/{folder(name)}"
    mend = "Choose another folder (out=FOLDER), or give the recorded values."
    fingerprint.refuse_if_different(where, recorded, asked, mend)
