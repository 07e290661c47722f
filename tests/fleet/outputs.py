"""Output folders made by hand: records, parts and logs of runs that no model has answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmmsteer import parts
from lmmsteer.fleet import cells
from lmmsteer.fleet.cells import CellRecord
from lmmsteer.schema import RESPONSES, Cell, Response, to_table
from lmmsteer.store import LocalStore

ROWS = 10


def manifest(out: Path, shards: int, dataset: str = "d") -> None:
    """The record of a manifest with so many shards of ROWS rows; its parts are not needed."""
    folder = out / "manifest" / f"dataset={dataset}"
    folder.mkdir(parents=True)
    digests = {"rows_digest": "0" * 64, "images_digest": "1" * 64}
    listed = [
        {"name": parts.part_name(n), "rows": ROWS, "images": 2, **digests} for n in range(shards)
    ]
    (folder / "_manifest.json").write_text(json.dumps({"identity": {}, "shards": listed}))


def cell(out: Path, method: str = "x", share: float = 0.01, **config: Any) -> CellRecord:
    """A started cell: its record and no part."""
    values = {"max_failed_share": share, **config}
    record = CellRecord(Cell("m", method, "a", "d"), values, {"model": {"digest": "e"}}, {})
    cells.record(LocalStore(out), record, None)
    return record


def part(
    out: Path,
    record: CellRecord,
    number: int,
    rows: int = ROWS,
    failed: Mapping[str, int] | None = None,
) -> Path:
    """A part of a cell; of its rows, so many failed by kind."""
    failed = failed or {}
    kinds = [kind for kind, count in failed.items() for _ in range(count)]
    answers = [
        Response(f"{number}-{n}", "i", "p", 0, error="why", error_kind=kind)
        if kind
        else Response(f"{number}-{n}", "i", "p", 0, "a text")
        for n, kind in enumerate([*kinds, *[None] * (rows - len(kinds))])
    ]
    data = parts.to_bytes(
        to_table(answers, RESPONSES), record.digest, {"lmmsteer.failed": json.dumps(failed)}
    )
    path = out / record.cell.folder / parts.part_name(number)
    path.write_bytes(data)
    return path


def log(out: Path, *events: Mapping[str, Any], name: str = "generate-1", torn: str = "") -> Path:
    """A driver's log; torn: what a killed driver left of its last line."""
    path = out / "logs" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + torn)
    return path


def at(second: int, event: str, **facts: Any) -> dict[str, Any]:
    """An event, so many seconds after 2026-01-02 00:00 UTC."""
    minutes, seconds = divmod(second, 60)
    hours, minutes = divmod(minutes, 60)
    stamp = f"2026-01-02T{hours:02}:{minutes:02}:{seconds:02}Z"
    return {"time": stamp, "event": event, **facts}


def done(second: int, took: float, cell: str = "m x a d", **facts: Any) -> dict[str, Any]:
    """A shard of ROWS rows that was answered in `took` seconds."""
    known = {"rows": ROWS, "worker": 1, "model": "m", "device": "cpu", "created": True}
    return at(second, "done", cell=cell, seconds=took, **{**known, **facts})


MIDNIGHT = 1767312000.0  # 2026-01-02 00:00 UTC: date -u -d 2026-01-02 +%s
