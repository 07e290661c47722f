"""The members of a sweep, composed as a verb gets them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from jobs.__main__ import CONF
from lmmsteer import config
from lmmsteer.fleet import launcher
from lmmsteer.fleet.launcher import Member, PlanLauncher, PlanSweeper


@contextmanager
def started() -> Iterator[Hydra]:
    """Hydra on the shipped configs, for the length of a `with` block."""
    config.register_all()
    launcher.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = GlobalHydra.instance().hydra
        assert found is not None
        yield found


def members(
    hydra: Hydra, verb: str, overrides: Sequence[str], kind: type[PlanLauncher] = PlanLauncher
) -> list[Member]:
    """What the command line of a verb hands to it; kind: the launcher."""
    master = hydra.compose_config(verb, list(overrides), RunMode.MULTIRUN)
    given: Any = OmegaConf.to_container(master.hydra.sweeper, resolve=True)
    seen: list[Member] = []
    task = type("Task", (), {"members": lambda self, found: seen.extend(found)})()
    context = HydraContext(config_loader=hydra.config_loader, callbacks=None)  # type: ignore[arg-type]
    sweeper, plan = PlanSweeper(given.get("params"), given.get("grids")), kind()
    plan.setup(hydra_context=context, task_function=task, config=master)
    sweeper.loader, sweeper.launcher = hydra.config_loader, plan
    sweeper.sweep(list(overrides))
    return seen
