"""Artifacts: those that cells were answered with have a recorded digest, the others a form."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from safetensors import SafetensorError, deserialize

from lmmsteer.fleet.cells import CellRecord
from lmmsteer.fleet.verify.faults import Fault, Wrong, read
from lmmsteer.store import Store


def check(store: Store, paths: Sequence[str], records: Iterable[CellRecord]) -> Iterator[Fault]:
    """A fault for each artifact that is missing, or is not the one that its cells name."""
    asked: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for path, digest in _named(record):
            asked[path].add(digest)
    for path in sorted({*paths, *asked}):
        data = None
        try:
            data = read(store, path)
            _check(path, data, asked.get(path, set()))
        except Wrong as wrong:
            yield wrong.at(path, data)


def _named(record: CellRecord) -> Iterator[tuple[str, str]]:
    """Addresses and digests of a cell's artifact and of its parts'."""
    method: Mapping[str, Any] = record.fingerprint.get("method") or {}
    members: Sequence[Mapping[str, Any]] = method.get("parts") or []
    digests = [method.get("artifact"), *(member.get("artifact") for member in members)]
    for path, digest in zip((record.artifact, *record.parts), digests, strict=False):
        if path is not None and digest is not None:
            yield path, digest


def _check(path: str, data: bytes, asked: set[str]) -> None:
    found = hashlib.sha256(data).hexdigest()
    if asked and found not in asked:
        raise Wrong("damaged", "is damaged, or not the one that its cells were answered with")
    if len(asked) > 1:
        raise Wrong("conflict", "is not the one that some of its cells were answered with")
    try:
        deserialize(data)
    except SafetensorError as error:
        raise Wrong("damaged", f"is damaged: {error}") from error
    digits = path.removesuffix(".safetensors").rpartition("/artifact-")[2]
    if "/" not in digits and not found.startswith(digits):
        raise Wrong("damaged", "is damaged: its digest is not that of its name")
