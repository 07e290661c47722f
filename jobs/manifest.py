"""manifest: data set x prompts x seeds as Parquet parts."""

from __future__ import annotations

from jobs import explain
from jobs.generate import licences
from lmmsteer import manifest
from lmmsteer.fleet import resolve
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.plan import store_of


def run(members: list[Member]) -> int:
    """Make each member's manifest; what is there already is left alone."""
    store = store_of(members, lambda error: explain.sentence(error, "manifest"))
    for member in members:
        if member.config is None:
            raise explain.sentence(member.error or ValueError("no config"), "manifest")
        config = resolve.typed_config(member.config)
        name = config.dataset["name"] + member.suffix("dataset")
        dataset, identity = resolve.manifest_of(config, name)
        known = {name} if manifest.load(store, name) is not None else set()
        for line in licences([(name, config)], known):
            print(line, flush=True)
        made = manifest.build(store, name, dataset, identity)
        where = f"{store.root}/{manifest.folder(name)}"
        print(f"{where}: {made.images} pictures, {made.rows} rows, {len(made.shards)} parts")
    return 0
