"""The judge: reads the plan and the parts by itself, and shares no code with who wrote them.

JSON and Parquet are read with json and pyarrow; what a row should say comes from the stand-in for
the model alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.simulation.model import says
from tests.simulation.process import Violation
from tests.simulation.tree import File

if TYPE_CHECKING:
    from tests.simulation.commands import Command
    from tests.simulation.projects import Project
    from tests.simulation.world import World

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("new_tokens", pa.int32()),
        pa.field("finish_reason", pa.string()),
        pa.field("error", pa.string()),
        pa.field("error_kind", pa.string()),
    ]
)
IDS = ("row_id", "image_id", "prompt_id", "seed")
ALONE = {"worker_died", "row_hung"}
SUMMARY = re.compile(r"(\d+) of (\d+) rows in \S+: (complete|\d+ rows missing)")

LONGEST = 5.0  # A drain, a round, what is said at the end.

Rows = list[dict[str, Any]]
_read: dict[bytes, tuple[Rows, dict[str, str]] | None] = {}


@dataclass(frozen=True)
class Shard:
    """A shard of a cell: where its part belongs, and the rows that it was planned to have."""

    folder: str
    part: str
    model: str
    tokens: int
    rows: Rows
    broken: frozenset[str]

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.part}"


def read(data: bytes) -> tuple[Rows, dict[str, str]] | None:
    """Rows and footer of a part; None where it is no whole Parquet file."""
    if data not in _read:
        try:
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            table = file.read()
            meta = {k.decode(): v.decode() for k, v in (file.metadata.metadata or {}).items()}
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            _read[data] = None
        else:
            meta["columns"] = str(table.schema.remove_metadata().equals(SCHEMA))
            _read[data] = table.to_pylist(), meta
    return _read[data]


def planned(world: World) -> list[Shard]:
    """Every shard of every cell, from the manifest's own files."""
    return _planned(world.project)


@cache
def _planned(project: Project) -> list[Shard]:
    base = "manifest/dataset=faces"
    names = json.loads(project.files[f"{base}/_manifest.json"])["shards"]
    found = []
    for number, (model, method) in enumerate(project.shape.cells):
        folder = f"responses/model={model}/method={method}/attribute=none/dataset=faces"
        for name in names:
            rows = read(project.files[f"{base}/rows/{name['name']}"])
            images = read(project.files[f"{base}/images/{name['name']}"])
            assert rows is not None
            assert images is not None
            broken = frozenset(i["image_id"] for i in images[0] if i["bytes"] is None)
            found.append(Shard(folder, name["name"], model, number + 1, rows[0], broken))
    return found


def there(world: World, below: str) -> bytes | None:
    node = world.tree.find(f"{world.out}/{below}")
    return node.data if isinstance(node, File) else None


# While it runs


def honest(world: World, command: Command) -> None:
    """P20: what a command says at its end is so."""
    said = " ".join(command.said)
    if not said:
        raise Violation(f"P20 {command.name} ended with {command.code} and said nothing")
    if command.verb == "verify":
        return
    if world.watch.vanished_at >= command.began:
        return  # It was so when it was counted; somebody has removed something since.
    shards = planned(world)
    done = sum(len(s.rows) for s in shards if there(world, s.path) is not None)
    count = sum(len(s.rows) for s in shards)
    match = SUMMARY.search(said)
    if command.code == 0 and (match is None or match[3] != "complete" or done != count):
        raise Violation(f"P20 exit code 0, and {done} of {count} rows are there: {said}")
    if match is not None:
        asked = int(match[2]) == count or "lmmsteer: " in said  # A refused cell is not counted.
        if int(match[1]) > done or not asked:
            raise Violation(f"P20 {match[0]}, and {done} of {count} rows are there")
        reasons = ("lmmsteer: ", " rows missing", "failed: ", "max_failed_share", "Interrupted")
        reasons = (*reasons, "cannot be")
        if command.code != 0 and not any(reason in said for reason in reasons):
            raise Violation(f"P20 exit code {command.code} without a reason: {said}")
    elif command.code == 0:
        raise Violation(f"P20 exit code 0 without a summary: {said}")


def bounded(world: World, command: Command) -> None:
    """P6 to P8 and P19: what is done again, how often workers die, how long a stop takes."""
    fleet, schedule = command.fleet, world.schedule
    deaths, hired = fleet.deaths, len(fleet.hired)
    if command.asked and not command.was_stopped:
        late = world.now - command.asked_at - LONGEST
        if late > 0:
            raise Violation(
                f"P19 {command.name} ended {late:.1f} s late after a stop was asked for"
            )
    for (_, part), count in fleet.sent.items():
        if count > 8 + deaths + hired:
            raise Violation(f"P7 {part} was sent {count} times")
    if schedule.faults or schedule.wrong_model:
        return
    if fleet.begun > command.missing + deaths + hired:
        raise Violation(
            f"P6 {fleet.begun} shards begun, {command.missing} missing, {deaths} deaths"
        )
    killers = [
        sum(world.kills_for_ever(r["row_id"], r["image_id"]) for r in s.rows)
        for s in planned(world)
    ]
    most = sum(count + 3 for count in killers if count)
    if "pair" not in world.poisoned.values() and deaths > most:
        raise Violation(f"P8 {deaths} workers died of {sum(killers)} rows in {len(killers)} shards")


def settled(world: World, early: bool) -> bool:
    """Whether a command has left nothing undone that can be done, and has said so.

    early: it need not have been an undisturbed one.
    """
    after = world.history[0 if early else world.before_calm :]
    _named(world, world.history[world.before_calm :])
    if not after or after[-1].verb == "verify":
        return False
    if world.damaged and world.bad():
        return False
    if any(there(world, s.path) is None for s in planned(world) if not _excused(world, s)):
        return False
    counted = SUMMARY.search(" ".join(after[-1].said)) is not None
    return counted and after[-1].code == (0 if _flawless(world) else 1)


def _named(world: World, after: list[Command]) -> None:
    """P12: an undisturbed verify has named every file that was damaged and was so still.

    Or its folder; or the record that says what belongs there: without it nobody can tell.
    """
    for command in after:
        if command.verb == "verify" and command.found is not None:
            named = {fault.path for fault in command.found.faults}
            for below in world.damaged_before(command):
                folder = below.rpartition("/")[0]
                records = {
                    f"{folder}/_cell.json",
                    f"manifest/{folder.rpartition('/')[2]}/_manifest.json",
                }
                if not named & {below, folder, *records}:
                    raise Violation(f"P12 {below} is damaged and verify did not name it")


def _excused(world: World, shard: Shard) -> bool:
    """Shards that cannot be answered, whoever tries."""
    schedule = world.schedule
    if schedule.wrong_model and shard.model == "m0":
        return True
    if schedule.breaker and _failed(world, shard.folder) > 2:
        return True
    kinds = [world.poisoned.get(row["row_id"]) for row in shard.rows]
    return kinds.count("pair") > 1 and not world.healed


def _flawless(world: World) -> bool:
    """Whether nothing is missing and no cell has lost more rows than it may."""
    shards = planned(world)
    if any(there(world, s.path) is None for s in shards):
        return False
    counts: dict[str, int] = {}
    for shard in shards:
        counts[shard.folder] = counts.get(shard.folder, 0) + len(shard.rows)
    return all(_failed(world, f) <= world.schedule.share * n for f, n in counts.items())


def _failed(world: World, folder: str) -> int:
    found = 0
    for shard in planned(world):
        data = there(world, shard.path) if shard.folder == folder else None
        part = read(data) if data is not None else None
        found += sum(row["text"] is None for row in part[0]) if part is not None else 0
    return found


# At the end


def check(world: World) -> None:
    """P1 to P5, P10 to P12 and P17 of what is there when everything is over."""
    seen: set[tuple[str, str]] = set()
    for shard in planned(world):
        data = there(world, shard.path)
        if data is None:
            if not _excused(world, shard):
                raise Violation(f"P1 {shard.path} is missing, and the run was called complete")
            continue
        _check_part(world, shard, data)
        for row in shard.rows:
            key = (shard.folder, row["row_id"])
            if key in seen:
                raise Violation(f"P2 {shard.folder} has row {row['row_id']} twice")
            seen.add(key)
        if not world.tree.durable(f"{world.out}/{shard.path}"):
            raise Violation(f"P5 {shard.path} is counted as done and would not outlive the machine")
    _check_files(world)
    _check_leftovers(world)


def _check_part(world: World, shard: Shard, data: bytes) -> None:
    found = read(data)
    if found is None:
        raise Violation(f"P11 {shard.path} is no whole Parquet file")
    rows, meta = found
    if meta["columns"] != "True":
        raise Violation(f"P17 {shard.path} has other columns")
    if [tuple(r[i] for i in IDS) for r in rows] != [tuple(r[i] for i in IDS) for r in shard.rows]:
        raise Violation(f"P1 {shard.path} holds other rows than were planned")
    failed = 0
    for place, row in enumerate(rows):
        failed += row["text"] is None
        _check_row(world, shard, place, row)
    if sum(json.loads(meta["lmmsteer.failed"]).values()) != failed:
        raise Violation(f"P10 {shard.path} counts its failed rows wrong")


def _check_row(world: World, shard: Shard, place: int, row: dict[str, Any]) -> None:
    name = f"{shard.path} row {place}"
    if (row["text"] is None) == (row["error_kind"] is None):
        raise Violation(f"P10 {name} has text and error, or neither")
    expected = says(shard.model, shard.tokens, row["row_id"], row["seed"], place, len(shard.rows))
    if row["error_kind"] in ALONE:
        if (shard.folder, shard.part, place) not in world.ended_alone:
            raise Violation(f"P3 {name} was given up, and nothing had befallen it alone")
        if row["error"] is None:
            raise Violation(f"P9 {name} has no reason")
    elif row["image_id"] in shard.broken:
        if row["error_kind"] != "picture_missing":
            raise Violation(f"P10 {name} has no picture and says {row['error_kind']}")
    elif row["text"] != expected:
        raise Violation(f"P3 {name} says {row['text']}, not {expected}")
    elif world.kills_for_ever(row["row_id"], row["image_id"]):
        raise Violation(f"P8 {name} cannot be answered, and was")


def _check_files(world: World) -> None:
    """No file that has no business there; the manifest as it was; records whole."""
    wanted = {shard.path for shard in planned(world)}
    for path in _visible(world):
        if path.startswith("responses/") and path not in wanted and not path.endswith("_cell.json"):
            raise Violation(f"P2 {path} was never planned")
    for path, data in world.project.files.items():
        if there(world, path) != data and not world.excuses_manifest(path):
            raise Violation(f"P5 {path} is not what it was")
    for path in _visible(world):
        if path.endswith(".json") and not _sealed(there(world, path) or b""):
            raise Violation(f"P11 {path} is torn")


def _visible(world: World) -> Iterator[str]:
    for path in world.tree.files():
        if path.startswith(world.out + "/") and "/." not in path:
            yield path[len(world.out) + 1 :]


def _sealed(data: bytes) -> bool:
    """The digest in a record is that of the record with zeros in its place."""
    match = re.search(rb'"sha256, its own digits as zeros: ([0-9a-f]{64})"', data)
    if match is None:
        return False
    plain = data[: match.start(1)] + b"0" * 64 + data[match.end(1) :]
    return hashlib.sha256(plain).hexdigest().encode() == match[1]


def _check_leftovers(world: World) -> None:
    """P11: what killed writers left has hidden names, and is collected an hour later."""
    world.collect()
    left = [p for p in world.tree.files() if "/." in p and "/.nfs" not in p]
    if left:
        raise Violation(f"P11 left behind for good: {left[0]}")
