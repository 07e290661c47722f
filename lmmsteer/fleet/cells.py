"""A cell's folder: its `_cell.json`, the gate on it, and which of its shards are done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lmmsteer import fingerprint, parts, seal
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet.footers import Footers
from lmmsteer.parts import DamagedPart
from lmmsteer.schema import Cell
from lmmsteer.store import Store


@dataclass(frozen=True)
class CellRecord:
    """What `_cell.json` holds: the resolved config, what defines the answers, and the stack.

    artifact, parts: addresses of the method's artifact and of its parts'.
    """

    cell: Cell
    config: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    stack: Mapping[str, Any]
    mixed_stacks: tuple[Mapping[str, Any], ...] = ()
    artifact: str | None = None
    parts: tuple[str | None, ...] = ()

    @property
    def digest(self) -> str:
        """The fingerprint as the parts' footers hold it."""
        return fingerprint.digest(self.fingerprint)

    def to_bytes(self) -> bytes:
        names = {k: getattr(self.cell, k) for k in ("model", "method", "attribute", "dataset")}
        record = {
            "cell": names,
            "config": self.config,
            "fingerprint": self.fingerprint,
            "fingerprint_digest": self.digest,
            "stack": self.stack,
            "mixed_stacks": list(self.mixed_stacks),
            "artifact": self.artifact,
            "parts": list(self.parts),
        }
        return seal.write_record(record)

    @classmethod
    def from_bytes(cls, data: bytes) -> CellRecord:
        """Raises ValueError, KeyError or TypeError where the bytes are not such a record's."""
        record = seal.read_record(data)
        if not all(isinstance(record[key], dict) for key in ("config", "fingerprint", "stack")):
            raise TypeError("its config, fingerprint and stack are no mappings")
        found = cls(
            Cell(**record["cell"], config=record["config"]),
            record["config"],
            record["fingerprint"],
            record["stack"],
            tuple(record.get("mixed_stacks", ())),
            record.get("artifact"),
            tuple(record.get("parts", ())),
        )
        if record["fingerprint_digest"] != found.digest:
            raise ValueError("its fingerprint_digest is not that of its fingerprint")
        return found


def path_of(folder: str) -> str:
    return f"{folder}/_cell.json"


def load(store: Store, folder: str) -> CellRecord | None:
    """The record of a cell's folder, or None where there is none."""
    path = path_of(folder)
    try:
        return CellRecord.from_bytes(store.read_bytes(path))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise LmmsteerError(
            f"{store.root}/{path} is damaged: {error}.",
            "Give the command that made the cell again, after: lmmsteer verify repair=true"
            f" out={store.root}",
        ) from error


def load_all(store: Store) -> list[CellRecord]:
    """Every cell of an output folder, in the order of their folders."""
    names = [path for path in store.list("responses") if path.endswith("/_cell.json")]
    records = [load(store, name.removesuffix("/_cell.json")) for name in names]
    return [record for record in records if record is not None]


def gate(store: Store, asked: CellRecord, mixed_stack: bool) -> CellRecord | None:
    """The record that is there; refused where fingerprint or stack differ from what is asked."""
    found = load(store, asked.cell.folder)
    where = f"{store.root}/{asked.cell.folder}"
    if found is None:
        _refuse_orphans(store, asked)
        return None
    fingerprint.refuse_if_different(
        where,
        found.fingerprint,
        asked.fingerprint,
        "Choose another folder (out=FOLDER), or give the recorded values.",
    )
    if asked.stack not in (found.stack, *found.mixed_stacks) and not mixed_stack:
        different = "; ".join(fingerprint.differences(found.stack, asked.stack))
        raise LmmsteerError(
            f"{where} was made on another stack ({different}).",
            "Go on all the same with mixed_stack=true (it is recorded), or choose out=FOLDER",
        )
    return found


def _refuse_orphans(store: Store, asked: CellRecord) -> None:
    """Raise where parts of another config lie in a folder that lost its record."""
    folder = asked.cell.folder
    for name in sorted(done(store, folder)):
        found = parts.read_footer(store, f"{folder}/{name}").fingerprint
        if found != asked.digest:
            made = "by another config" if found else "elsewhere"
            raise LmmsteerError(
                f"{store.root}/{folder} has no _cell.json, and its {name} was made {made}.",
                "Choose another folder (out=FOLDER), or give the command that made it.",
            )


def record(store: Store, asked: CellRecord, found: CellRecord | None) -> None:
    """Make `_cell.json`, or note in it that another stack goes on."""
    path = path_of(asked.cell.folder)
    if found is None:
        store.create(path, asked.to_bytes())
    elif asked.stack not in (found.stack, *found.mixed_stacks):
        mixed = (*found.mixed_stacks, asked.stack)
        store.write_bytes(path, replace(found, mixed_stacks=mixed).to_bytes())


def done(store: Store, folder: str) -> set[str]:
    """Names of the parts that are there: the ledger."""
    names = (path.rpartition("/")[2] for path in store.list(folder))
    return {name for name in names if is_part(name)}


def is_part(name: str) -> bool:
    return name.startswith("part-") and name.endswith(".parquet")


def failed_rows(store: Store, folder: str, names: set[str]) -> tuple[int, Counter[str]]:
    """Rows in the named parts, and how many of them failed, by error kind; from the footers."""
    rows, failed = 0, Counter[str]()
    for count in Footers(store).read(f"{folder}/{name}" for name in sorted(names)).values():
        if isinstance(count, DamagedPart):
            raise count
        rows += count.rows
        failed.update(dict(count.failed))
    return rows, failed
