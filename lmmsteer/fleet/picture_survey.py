"""A manifest's pictures looked at before a card is: what cannot be shown, what occurs twice."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from lmmsteer import manifest, parts
from lmmsteer.ahead import in_order
from lmmsteer.errors import PictureError
from lmmsteer.manifest import Manifest
from lmmsteer.models.picture_pool import Decoders
from lmmsteer.schema import Picture
from lmmsteer.store import Store

COLUMNS = ("image_id", "part", "kind", "reason", "same_as")
TWICE = "twice"  # The kind of a picture whose bytes another has too.
Prefixes = np.ndarray


@dataclass(frozen=True)
class Finding:
    """A picture to know of. kind: an error kind of `pictures`, or `twice`: its bytes are those of
    `same_as`, an earlier picture."""

    image_id: str
    part: str
    kind: str
    reason: str = ""
    same_as: str = ""


@dataclass
class Survey:
    """pictures: how many were looked at. findings: in the manifest's order, broken ones first."""

    pictures: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def kinds(self) -> Counter[str]:
        return Counter(finding.kind for finding in self.findings)

    def to_csv(self) -> bytes:
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(COLUMNS)
        lines.writerows([getattr(one, name) for name in COLUMNS] for one in self.findings)
        return text.getvalue().encode()


def path_of(dataset: str) -> str:
    """Where the list of a manifest's findings lies below `out`."""
    return f"report/pictures-{dataset}.csv"


def survey(
    store: Store, made: Manifest, processes: int, told: Callable[[int, int], None]
) -> Survey:
    """Every picture decoded once, as a worker would, in `processes` that a bad one cannot harm.

    told: hears of each part how many pictures it has and how many of them cannot be shown. Memory:
    the pictures of a few parts, and eight bytes for each of all.
    """
    found, prefixes = Survey(), []
    decoders = Decoders(processes=processes)

    def looked(part: str) -> tuple[list[Finding], list[str]]:
        pictures = manifest.read_pictures(store, made.dataset, part).values()
        coming = [(p, decoders.submit(p.bytes) if p.bytes is not None else None) for p in pictures]
        broken = [one for one in (_broken(part, *pair) for pair in coming) if one is not None]
        return broken, [picture.sha256 for picture in pictures if picture.sha256]

    try:
        names = [shard.name for shard in made.shards]
        for shard, (broken, digests) in zip(
            made.shards, in_order(looked, names, processes + 1), strict=True
        ):
            found.pictures += shard.images
            found.findings += broken
            prefixes.append(_prefixes(digests))
            told(shard.images, len(broken))
    finally:
        decoders.close()
    found.findings += _twice(store, made, np.concatenate([_prefixes([]), *prefixes]))
    return found


def _broken(part: str, picture: Picture, future: Future[Image.Image] | None) -> Finding | None:
    if future is None:
        kind, reason = picture.error_kind or "picture_missing", picture.error or "no bytes"
        return Finding(picture.image_id, part, kind, reason)
    try:
        future.result()
    except PictureError as error:
        return Finding(picture.image_id, part, error.kind, str(error))
    return None


def _prefixes(digests: Iterable[str]) -> Prefixes:
    return np.array([int(digest[:16], 16) for digest in digests], np.uint64)


def _twice(store: Store, made: Manifest, prefixes: Prefixes) -> list[Finding]:
    """The pictures whose bytes an earlier one has, by their whole digests."""
    values, counts = np.unique(prefixes, return_counts=True)
    suspect = set(values[counts > 1].tolist())
    if not suspect:
        return []
    first: dict[str, str] = {}
    found = []
    for shard in made.shards:
        path = f"{manifest.folder(made.dataset)}/images/{shard.name}"
        ids, digests = (parts.read_column(store, path, name) for name in ("image_id", "sha256"))
        for image_id, digest in zip(ids, digests, strict=True):
            if digest is None or int(digest[:16], 16) not in suspect:
                continue
            other = first.setdefault(digest, image_id)
            if other != image_id:
                said = f"the same bytes as {other}"
                found.append(Finding(image_id, shard.name, TWICE, said, other))
    return found
