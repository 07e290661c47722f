"""Finished outputs without a cluster: cells resolved as `generate` does, shards answered here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from jobs.__main__ import CONF
from lmmsteer import config as configs
from lmmsteer import manifest
from lmmsteer.fleet import cells, engines, launcher, resolve
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.shard import Shard
from lmmsteer.store import LocalStore
from tests.tiny import tiny_llava, tiny_lmm


def answered(
    out: Path, photos: Path, *methods: list[str], settings: tuple[str, ...] = ()
) -> LocalStore:
    """An output of the tiny LLaVA about a folder of pictures; methods: overrides of each cell."""
    configs.register_all()
    launcher.register()
    store = LocalStore(out)
    common = [
        "dataset=folder",
        f"dataset.path={photos}",
        f"model.path={tiny_llava()}",
        "model.name=tiny",
        "sampling.max_new_tokens=6",
        "shard_images=2",
        f"out={out}",
        *settings,
    ]
    for overrides in methods:
        _cell(store, [*common, *overrides])
    return store


def _cell(store: LocalStore, overrides: list[str]) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        member = Member(compose("generate", overrides=overrides))
    job = resolve.resolve(member, store)
    made = manifest.build(store, job.cell.dataset, job.dataset, job.identity)
    for path, artifact in job.steering.handed:
        store.create(path, artifact.to_bytes())
    cells.record(store, job.record, None)
    engine: Any = engines.open_engine(job.config.engine)
    for shard in made.shards:
        Shard(job.task, shard.name, engine).answer(store, tiny_lmm())
