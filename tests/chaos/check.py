"""The oracle: reads the output folder alone, by pyarrow and hashlib, and uses none of our code."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

LEFTOVER = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
Poison = Mapping[tuple[str, str], str]  # (cell's folder, row id) -> error kind


class Violation(Exception):
    """A promise that was broken, in a sentence."""


def parts(out: Path) -> dict[str, str]:
    """sha256 of every response part, by its path below responses."""
    root = out / "responses"
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("part-*.parquet"))
    }


def digest(out: Path) -> str:
    """One sha256 over the bytes of all response parts, in the order of their paths."""
    whole = hashlib.sha256()
    for name in sorted(parts(out)):
        whole.update((out / "responses" / name).read_bytes())
    return whole.hexdigest()


def same(out: Path, undisturbed: Path, poison: Poison | None = None) -> None:
    """Every part is there and its bytes are those of the undisturbed run, but for poisoned rows."""
    found, expected = parts(out), parts(undisturbed)
    if found.keys() != expected.keys():
        raise Violation(f"other parts: {sorted(found.keys() ^ expected.keys())}")
    hurt = {f"{folder.removeprefix('responses/')}" for folder, _ in poison or {}}
    for name, value in found.items():
        if value == expected[name]:
            continue
        if name.rpartition("/")[0] not in hurt:
            raise Violation(f"{name} has other bytes than undisturbed")
    if not poison:
        if digest(out) != digest(undisturbed):
            raise Violation("another digest over all parts")
        return
    _rows(out, undisturbed, poison)


def _rows(out: Path, undisturbed: Path, poison: Poison) -> None:
    """Row by row: the poisoned ones carry their reason and no text, all others are as they were."""
    missed = dict(poison)
    for name in parts(out):
        folder = "responses/" + name.rpartition("/")[0]
        pairs = zip(_read(out, name), _read(undisturbed, name), strict=True)
        for found, expected in pairs:
            kind = missed.pop((folder, expected["row_id"]), None)
            if kind is None:
                if found != expected:
                    raise Violation(f"{name}: row {expected['row_id']} is not what it was")
                continue
            ids = ("row_id", "image_id", "prompt_id", "seed")
            sound = found["text"] is None and found["error_kind"] == kind and found["error"]
            if not sound or any(found[i] != expected[i] for i in ids):
                raise Violation(f"{name}: poisoned row {expected['row_id']} is {found}")
    if missed:
        raise Violation(f"poisoned rows that are nowhere: {missed}")


def _read(out: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(out / "responses" / name).to_pylist()


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind in all logs; a line that a killed driver left torn is passed over."""
    found = []
    for path in sorted((out / "logs").glob("*.jsonl")):
        for text in path.read_text(errors="replace").splitlines():
            try:
                event = json.loads(text)
            except ValueError:
                continue
            if event.get("event") == kind:
                found.append(event)
    return found


def made_once(out: Path) -> None:
    """No two workers, whosever they were, were told that the part is theirs."""
    made = Counter((e["cell"], e["part"]) for e in events(out, "done") if e["created"])
    twice = [name for name, count in made.items() if count > 1]
    if twice:
        raise Violation(f"made more than once: {twice}")


def deaths_are_bounded(out: Path, poisoned: Mapping[tuple[str, str], int], ours: int) -> None:
    """k rows of a shard that kill cost at most k + 3 deaths; poisoned: k by cell and part.

    Where rows kill, a part without such a row may be blamed once: a worker that dies on the next
    part as it reports this one takes the report along.
    """
    dead = Counter((e.get("cell"), e.get("part")) for e in events(out, "death"))
    over = sum(max(0, dead[name] - k - 3) for name, k in poisoned.items())
    once = 1 if poisoned else 0
    over += sum(max(0, count - once) for name, count in dead.items() if name not in poisoned)
    if over > ours:
        raise Violation(f"{over} deaths more than rows explain, {ours} of them ours: {dict(dead)}")


def leftovers(out: Path) -> list[Path]:
    """Hidden files below the folder: only what a killed writer leaves, none older than an hour."""
    found = [path for path in out.rglob(".*") if path.is_file()]
    for path in found:
        if not LEFTOVER.fullmatch(path.name):
            raise Violation(f"{path} is nobody's")
        if time.time() - path.stat().st_mtime > 3600:
            raise Violation(f"{path} should have been removed by now")
    return found


def age(paths: list[Path]) -> None:
    """Two hours older, so that the next run must remove them."""
    for path in paths:
        then = path.stat().st_mtime - 7200
        os.utime(path, (then, then))


def honest(code: int, said: str, out: Path, undisturbed: Path) -> None:
    """An exit code that the folder bears out, and a sentence where it is not 0."""
    if code not in (0, 1):
        raise Violation(f"exit code {code}: {said[-800:]}")
    if "Traceback" in said:
        raise Violation(f"a traceback: {said[-1500:]}")
    missing = parts(undisturbed).keys() - parts(out).keys()
    if code == 0 and missing:
        raise Violation(f"exit code 0, and {len(missing)} parts are missing")
    if code == 1 and not said.strip():
        raise Violation("exit code 1 without a word")
