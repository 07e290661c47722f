"""manifest: data set x prompts x seeds as Parquet parts, and what is wrong with its pictures."""

from __future__ import annotations

import os

from omegaconf import open_dict

from jobs import explain
from jobs.generate import licences
from lmmsteer import manifest
from lmmsteer.fleet import picture_survey, resolve
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.picture_survey import TWICE
from lmmsteer.fleet.plan import store_of
from lmmsteer.fleet.progress import Display
from lmmsteer.manifest import Manifest
from lmmsteer.store import Store

SHOWN = 5  # findings on the screen; all of them are in the list


def run(members: list[Member]) -> int:
    """Make each member's manifest; what is there already is left alone."""
    store = store_of(members, lambda error: explain.sentence(error, "manifest"))
    made: dict[str, Manifest] = {}
    for member in members:
        if member.config is None:
            raise explain.sentence(member.error or ValueError("no config"), "manifest")
        with open_dict(member.config):
            check = bool(member.config.pop("check", True))
        config = resolve.typed_config(member.config)
        name = config.dataset["name"] + member.suffix("dataset")
        dataset, identity = resolve.manifest_of(config, name)
        if name in made:  # Of another cell of a sweep; refused where it is not the same.
            manifest.gate(store, name, identity, made[name])
            continue
        known = {name} if manifest.load(store, name) is not None else set()
        for line in licences([(name, config)], known):
            print(line, flush=True)
        found = made[name] = manifest.build(store, name, dataset, identity)
        where = f"{store.root}/{manifest.folder(name)}"
        print(f"{where}: {found.images} pictures, {found.rows} rows, {len(found.shards)} parts")
        if check:
            _survey(store, found)
    return 0


def _survey(store: Store, made: Manifest) -> None:
    """Look at every picture; list those that cannot be shown or occur twice."""
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    with Display(made.images, "looking", unit="pictures") as display:
        found = picture_survey.survey(store, made, processes, display.add)
    path = picture_survey.path_of(made.dataset)
    store.write_bytes(path, found.to_csv())
    kinds = found.kinds
    twice = kinds.pop(TWICE, 0)
    said = f" ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))})"
    print(
        f"{made.dataset}: {kinds.total()} pictures cannot be shown{said if kinds else ''},"
        f" {twice} have the bytes of another; listed in {store.root}/{path}"
    )
    for finding in found.findings[:SHOWN]:
        print(f"  {finding.image_id}: {finding.kind}: {finding.reason}")
    if len(found.findings) > SHOWN:
        print(f"  and {len(found.findings) - SHOWN} more")
