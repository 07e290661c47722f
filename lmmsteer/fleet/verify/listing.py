"""The names below an output folder, sorted out; what has no business there is named."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lmmsteer.fleet.verify.faults import Fault
from lmmsteer.store import Store

TREES = ("artifacts", "manifest", "responses")
PART = r"part-\d{5,}\.parquet"
MANIFEST = re.compile(rf"manifest/dataset=([^/]+)/(?:(rows|images)/({PART})|_manifest\.json)")
CELL = re.compile(
    r"(responses/model=[^/]+/method=[^/]+/attribute=[^/]+/dataset=([^/]+))/"
    r"(?:(part-[^/]+\.parquet)|_cell\.json)"
)
ARTIFACT = re.compile(
    r"artifacts/model=[^/]+/method=[^/]+/attribute=[^/]+/artifact(?:-[0-9a-f]{12})?\.safetensors"
)
FILE = re.compile(rf"{PART}|_manifest\.json|_cell\.json|artifact[^/]*\.safetensors")


@dataclass
class Names:
    """What is there of a manifest or a cell. images: of a manifest alone."""

    dataset: str
    parts: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    record: bool = False


@dataclass
class Listing:
    """manifests: by data set; cells: by folder; artifacts: their paths."""

    manifests: dict[str, Names] = field(default_factory=dict)
    cells: dict[str, Names] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @classmethod
    def of(cls, store: Store, grace: float) -> Listing:
        """Everything below the three trees. grace: seconds for which a temporary is a writer's."""
        found = cls()
        for tree in TREES:
            for path in store.list(tree):
                found._sort(path)
            found.faults += _unlisted(store, tree, grace)
        return found

    @property
    def empty(self) -> bool:
        return not (self.manifests or self.cells or self.artifacts or self.faults)

    def _sort(self, path: str) -> None:
        if match := MANIFEST.fullmatch(path):
            dataset, kind, part = match.groups()
            names = self.manifests.setdefault(dataset, Names(dataset))
            _add(names, names.images if kind == "images" else names.parts, part)
        elif match := CELL.fullmatch(path):
            folder, dataset, part = match.groups()
            names = self.cells.setdefault(folder, Names(dataset))
            _add(names, names.parts, part)
        elif ARTIFACT.fullmatch(path):
            self.artifacts.append(path)
        else:
            self.faults.append(Fault(path, "has no place here", "stray"))


def _add(names: Names, parts: set[str], part: str | None) -> None:
    if part is None:
        names.record = True
    else:
        parts.add(part)


def _unlisted(store: Store, tree: str, grace: float) -> Iterator[Fault]:
    """What the store does not list: hidden files that are older than the grace, and folders under
    the name of a file. An object store has neither."""
    root = store.local("")
    if root is None:
        return
    for folder, folders, names in os.walk(root / tree):
        at = Path(folder)
        hidden = at.relative_to(root).as_posix().find("/.") >= 0
        for name in folders:
            if FILE.fullmatch(name) and not hidden:
                path = (at / name).relative_to(root).as_posix()
                yield Fault(path, "is a folder under the name of a file", "unreadable")
        for name in names:
            # NFS keeps the file of a deleted name that is still open under .nfs until it is closed.
            if (hidden or name.startswith(".")) and not name.startswith(".nfs"):
                yield from _old(root, at / name, grace)


def _old(root: Path, file: Path, grace: float) -> Iterator[Fault]:
    try:
        age = time.time() - file.lstat().st_mtime
    except OSError:
        return  # Its writer has just removed it.
    if age > grace:
        path = file.relative_to(root).as_posix()
        if file.name.endswith(".tmp"):
            yield Fault(path, "was left by a writer that died", "leftover")
        else:
            yield Fault(path, "has no place here", "stray")
