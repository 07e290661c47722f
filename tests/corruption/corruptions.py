"""What can happen to the files of an output folder. One function for each kind.

Each changes one thing below the folder, by a random generator's choice, and tells which paths
verify has to name: those and no others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Done:
    """A corruption that was made: in words, and the paths that it damaged."""

    what: str
    named: frozenset[str]


@dataclass(frozen=True)
class Place:
    """The folder, its undisturbed files, and whole files of an earlier attempt."""

    folder: Path
    files: Files
    older: Files

    def write(self, path: str, data: bytes) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def flip(place: Place, random: Random) -> Done:
    """One bit of one file, wherever it is."""
    path = _file(place, random)
    data = bytearray(place.files[path])
    at = random.randrange(len(data) * 8)
    data[at // 8] ^= 1 << at % 8
    place.write(path, bytes(data))
    return _done(f"bit {at % 8} of byte {at // 8} of {len(data)}", path)


def flip_text(place: Place, random: Random) -> Done:
    """One bit of a JSON record."""
    path = random.choice(sorted(p for p in place.files if p.endswith(".json")))
    data = bytearray(place.files[path])
    at = random.randrange(len(data) * 8)
    data[at // 8] ^= 1 << at % 8
    place.write(path, bytes(data))
    return _done(f"bit {at % 8} of byte {at // 8} of a record", path)


def flip_end(place: Place, random: Random) -> Done:
    """One bit of a footer, its length or the magic bytes."""
    path = random.choice(sorted(p for p in place.files if p.endswith(".parquet")))
    data = bytearray(place.files[path])
    footer = int.from_bytes(data[-8:-4], "little") + 8
    at = len(data) * 8 - 1 - random.randrange(footer * 8)
    data[at // 8] ^= 1 << at % 8
    place.write(path, bytes(data))
    return _done(f"bit {at % 8} of byte {at // 8} of a footer", path)


def burst(place: Place, random: Random) -> Done:
    """A few bytes replaced by others."""
    path = _file(place, random)
    data = bytearray(place.files[path])
    at, size = random.randrange(len(data)), random.randrange(1, 64)
    data[at : at + size] = random.randbytes(len(data[at : at + size]))
    if bytes(data) == place.files[path]:
        data[at] ^= 0xFF
    place.write(path, bytes(data))
    return _done(f"{size} random bytes at {at}", path)


def zeros(place: Place, random: Random) -> Done:
    """A block that was never written."""
    path = _file(place, random)
    data = bytearray(place.files[path])
    size = random.choice((16, 512, 4096))
    at = random.randrange(len(data)) // size * size
    cut = data[at : at + size]
    if not any(cut):
        return flip(place, random)
    data[at : at + size] = bytes(len(cut))
    place.write(path, bytes(data))
    return _done(f"{size} zero bytes at {at}", path)


def truncate(place: Place, random: Random) -> Done:
    """The end is lost, often all of it."""
    path = _file(place, random)
    data = place.files[path]
    size = random.choice((0, 1, 4, len(data) // 2, len(data) - 8, len(data) - 1))
    size = random.choice((size, random.randrange(len(data))))
    place.write(path, data[:size])
    return _done(f"cut to {size} of {len(data)} bytes", path)


def append(place: Place, random: Random) -> Done:
    """Bytes too many: of another file, blanks, or the file once more."""
    path = _file(place, random)
    data = place.files[path]
    more = random.choice((b"\n", b" ", b"\x00", b"PAR1", random.randbytes(40), data))
    place.write(path, data + more)
    return _done(f"{len(more)} bytes more", path)


def drop_bytes(place: Place, random: Random) -> Done:
    """Bytes in the middle are lost."""
    path = _file(place, random)
    data = place.files[path]
    at, size = random.randrange(len(data)), random.randrange(1, 100)
    place.write(path, data[:at] + data[at + size :])
    return _done(f"{size} bytes lost at {at}", path)


def swap(place: Place, random: Random) -> Done:
    """Two files of one kind exchanged: shards, cells, data sets, records."""
    one = _file(place, random)
    kind = one.rpartition(".")[2]
    others = [p for p in place.files if p.endswith(kind) and place.files[p] != place.files[one]]
    if not others:
        return delete(place, random)
    other = random.choice(sorted(others))
    place.write(one, place.files[other])
    place.write(other, place.files[one])
    return _done("swapped", one, other)


def copy(place: Place, random: Random) -> Done:
    """A file over another of its kind."""
    one = _file(place, random)
    kind = one.rpartition(".")[2]
    others = [p for p in place.files if p.endswith(kind) and place.files[p] != place.files[one]]
    if not others:
        return delete(place, random)
    other = random.choice(sorted(others))
    place.write(one, place.files[other])
    return _done(f"{other} copied over it", one)


def delete(place: Place, random: Random) -> Done:
    path = _file(place, random)
    (place.folder / path).unlink()
    return _done("deleted", path)


def stale(place: Place, random: Random) -> Done:
    """A whole file of an earlier attempt, made with another temperature."""
    path = random.choice(sorted(place.older))
    place.write(path, place.older[path])
    return _done("of an earlier attempt", path)


def stray(place: Place, random: Random) -> Done:
    """A file where none belongs: a copy, a half-made name, a temporary of long ago."""
    path = _file(place, random)
    folder, _, name = path.rpartition("/")
    made = random.choice(
        (
            f"{folder}/{name}.tmp",
            f"{folder}/{name} (1)",
            f"{folder}/.{name}.{random.getrandbits(128):032x}.tmp",
            f"{folder}/.{name}.swp",
            f"{folder}/part-00099.parquet",
            f"{folder}/part-7.parquet",
            f"{path.partition('/')[0]}/{name}",
            f"{folder}/more/{name}",
        )
    )
    place.write(made, place.files[path][: random.choice((0, 100, None))])
    os.utime(place.folder / made, (0, 0))
    return _done("a stray", made)


def edit(place: Place, random: Random) -> Done:
    """A record edited by hand: another value, a key more or less, or only other white space."""
    path = random.choice(sorted(p for p in place.files if p.endswith(".json")))
    record = json.loads(place.files[path])
    way = random.randrange(4)
    key = random.choice(sorted(record.keys() - {"seal"}))
    if way == 0:
        record[key] = random.choice((None, 0, [], {}, "x", [record[key]]))
    elif way == 1:
        del record[key]
    elif way == 2:
        record["more"] = 1
    text = json.dumps(record, ensure_ascii=False, indent=random.choice((None, 2)))
    place.write(path, text.encode())
    return _done(f"edited ({way}: {key})", path)


def regroup(place: Place, random: Random) -> Done:
    """A part rewritten by another program: the same rows and footer, other bytes."""
    import pyarrow.parquet as pq

    path = random.choice(sorted(p for p in place.files if p.endswith(".parquet")))
    table = pq.read_table(place.folder / path)
    pq.write_table(table, place.folder / path, compression="snappy")
    return _done("rewritten by another program", path)


def shuffle(place: Place, random: Random) -> Done:
    """A part with its rows in another order, one row less, or one row twice; a footer that fits."""
    import pyarrow.parquet as pq

    from lmmsteer import parts

    path = random.choice(sorted(p for p in place.files if p.endswith(".parquet")))
    table = pq.read_table(place.folder / path)
    meta = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    order = list(range(table.num_rows))
    way = random.randrange(3) if len(order) > 1 else 2
    order = (order[::-1], order[1:], [*order, order[0]])[way]
    extra = {k: v for k, v in meta.items() if k == "lmmsteer.failed"}
    rows = table.take(order).replace_schema_metadata(None)
    place.write(path, parts.to_bytes(rows, meta["lmmsteer.fingerprint"], extra))
    return _done(("rows reversed", "a row lost", "a row twice")[way], path)


def _file(place: Place, random: Random) -> str:
    return random.choice(sorted(place.files))


def _done(what: str, *paths: str) -> Done:
    return Done(what, frozenset(paths))


Kind = Callable[[Place, Random], Done]
KINDS: tuple[Kind, ...] = (
    flip,
    flip,
    flip,
    flip_text,
    flip_end,
    burst,
    zeros,
    truncate,
    append,
    drop_bytes,
    swap,
    copy,
    delete,
    stale,
    stray,
    edit,
    regroup,
    shuffle,
)
