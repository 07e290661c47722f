"""verify: every part of an output folder re-read, each fault named, bad parts moved aside."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from jobs import explain
from lmmsteer import config as configs
from lmmsteer.config import VerifyConfig
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.progress import Display
from lmmsteer.fleet.verify import Findings, Settings, aside, stamp, verify
from lmmsteer.store import Store, open_store

LONG = 512  # Parts from which on progress is shown.


def run(members: list[Member]) -> int:
    """Exit code 0 where nothing is wrong and nothing missing, 1 where faults were found."""
    if members[0].config is None:
        raise explain.sentence(members[0].error or ValueError("no config"), "verify")
    asked = configs.typed(members[0].config, VerifyConfig, "")
    settings = _settings(asked)
    store = open_store(asked.out)
    with ExitStack() as stack:
        found = verify(store, settings, _progress(stack))
    if not asked.json:  # Before anything is moved: a full disk must not hide what was found.
        print(*_named(found), sep="\n", end="\n" if found.faults or found.foreign else "")
    where = stamp()
    moved = aside(store, found.faults, where) if asked.repair else []
    if asked.json:
        print(json.dumps(_record(store, found, settings, moved, where), indent=1))
    else:
        print(_summary(store, found, settings, moved, where))
    return 1 if found.faults else 0


def _settings(asked: VerifyConfig) -> Settings:
    rules = {
        "sample": (0 < asked.sample <= 1, "a share of the shards: sample=0.01"),
        "workers": (asked.workers is None or asked.workers >= 1, "workers=1 or more"),
        "grace": (asked.grace >= 0, "seconds: grace=3600"),
    }
    for key, (right, mend) in rules.items():
        if not right:
            raise LmmsteerError(f"{key}={getattr(asked, key)} is out of range.", f"Give {mend}")
    return Settings(asked.sample, asked.sample_seed, asked.workers, asked.grace)


def _progress(stack: ExitStack) -> Callable[[int, int], None]:
    """Told of more parts that were read, of so many, it shows how far a long run is."""
    shown: list[Display] = []

    def tell(parts: int, of: int) -> None:
        if not shown:
            shown.append(stack.enter_context(Display(of, "verify", of >= LONG, unit="parts")))
        shown[0].add(parts, 0)

    return tell


def _record(
    store: Store, found: Findings, settings: Settings, moved: Sequence[str], where: str
) -> dict[str, Any]:
    return {
        "out": store.root,
        "checked": found.checked,
        "parts": found.parts,
        "sample": settings.sample,
        "faults": [{"path": f.path, "fault": f.fault, "kind": f.kind} for f in found.faults],
        "unverified": sorted(found.foreign),
        "unsealed": found.unsealed,
        "repaired": list(moved),
        "trash": f"trash/{where}" if moved else None,
    }


def _named(found: Findings) -> Iterator[str]:
    yield from map(str, found.faults)
    for path in sorted(found.foreign):
        yield f"{path} is unverified: lmmsteer did not write it"


def _summary(
    store: Store, found: Findings, settings: Settings, moved: Sequence[str], where: str
) -> str:
    """What was checked and found, and what mends it."""
    count = len(found.faults)
    faults = "1 fault" if count == 1 else f"{count} faults"
    said = [f"{found.checked} of {found.parts} parts checked, {faults}"]
    if settings.sample < 1:
        said.append(f"a sample (sample={settings.sample} sample_seed={settings.seed})")
    if found.unsealed:
        said.append(f"{found.unsealed} files of an older version: their rows, not every byte")
    if moved:
        said.append(f"{len(moved)} moved to {store.root}/trash/{where}")
    if mend := _mend(store, found, moved):
        said.append(mend)
    return f"{store.root}: {'; '.join(said)}"


def _mend(store: Store, found: Findings, moved: Sequence[str]) -> str:
    """The command that comes next."""
    if any(fault.moved for fault in found.faults) and not moved:
        return f"move the bad ones aside with: lmmsteer verify repair=true out={store.root}"
    kept = {f.path for f in found.faults if f.kind in ("stray", "leftover", "unknown")}
    lost = {f.path for f in found.faults if f.kind == "missing"} | {*moved} - kept
    if any(path.endswith("/_cell.json") for path in lost):
        return "give the generate command of the cell that lost its record again"
    if lost and found.cells:
        return f"make them again with: lmmsteer resume out={store.root}"
    return "make them again with the lmmsteer manifest command that made them" if lost else ""
