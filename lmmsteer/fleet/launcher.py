"""Hydra's sweep as one plan: all members of `-m` reach the verb at once.

The sweeper expands the overrides and writes no file; the launcher composes each member and hands
the list to the task function. A member that does not compose is handed on as its error, so that it
leaves the others running and is named at the end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

GROUPS = ("model", "method", "attribute", "dataset")
NAMING = ("model.path", "model.name", "method.name", "attribute.name", "dataset.name")
OF_DATASET = ("dataset", "prompts", "seeds", "limit", "shard_images")


@dataclass(frozen=True)
class Member:
    """One run of a sweep: its config or why there is none, and what the sweep varies in it.

    varied: {"model" | "method" | "attribute" | "dataset": {key: value}} for keys beyond the names.
    label: the overrides in which it differs from the others.
    """

    config: DictConfig | None
    error: Exception | None = None
    varied: dict[str, dict[str, str]] = field(default_factory=dict)
    label: str = "this run"

    def suffix(self, group: str, keys: Sequence[str] | None = None) -> str:
        """What a folder name says of the varied keys: `+alpha-0.5`."""
        values = self.varied.get(group, {})
        return "".join(
            f"+{_plain(key.removeprefix(group + '.'))}-{_plain(value)}"
            for key, value in sorted(values.items())
            if keys is None or key.removeprefix(group + ".") in keys
        )


class PlanSweeper(Sweeper):
    """Hydra's own sweep grammar (lists, ranges, globs), all members in one batch, no files."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.loader = hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        # Hydra's scan for plugins loads this module anew: an import above would hold a stale class.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        parser = OverridesParser.create(config_loader=self.loader)
        batches = BasicSweeper.split_arguments(parser.parse_overrides(arguments), None)
        launch = self.launcher.launch  # type: ignore[union-attr]
        return [launch(batch, initial_job_idx=0) for batch in batches]


class PlanLauncher(Launcher):
    """Composes every member, then calls the task function's `members` once."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        setup_globals()
        differing = _differing(job_overrides)
        state = Singleton.get_state()
        members = [self._compose(overrides, differing) for overrides in job_overrides]
        Singleton.set_state(state)
        done = JobReturn(overrides=[], status=JobStatus.COMPLETED)
        done.return_value = self.task_function.members(members)  # type: ignore[attr-defined]
        return [done]

    def _compose(self, overrides: Sequence[str], differing: set[str]) -> Member:
        mine = [o for o in overrides if o.partition("=")[0] in differing]
        varied: dict[str, dict[str, str]] = {}
        for key, _, value in (o.partition("=") for o in mine):
            if key not in GROUPS and key not in NAMING:
                varied.setdefault(_group_of(key), {})[key] = value
        label = " ".join(mine) or "this run"
        try:
            loader = self.hydra_context.config_loader
            config = loader.load_sweep_config(self.config, list(overrides))
        except Exception as error:
            return Member(None, error, varied, label)
        with open_dict(config):
            del config["hydra"]
        return Member(config, None, varied, label)


def _differing(job_overrides: Sequence[Sequence[str]]) -> set[str]:
    seen: dict[str, set[str]] = {}
    for key, _, value in (o.partition("=") for overrides in job_overrides for o in overrides):
        seen.setdefault(key, set()).add(value)
    return {key for key, values in seen.items() if len(values) > 1}


def _group_of(key: str) -> str:
    first = key.partition(".")[0].lstrip("+")
    if first in OF_DATASET:
        return "dataset"
    return first if first in GROUPS else "method"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text.rstrip("/").rpartition("/")[2]).strip("_")


def register() -> None:
    """Make `hydra/sweeper=plan` and `hydra/launcher=plan` choices of every config."""
    for kind, plugin in (("sweeper", "PlanSweeper"), ("launcher", "PlanLauncher")):
        node = {"_target_": f"hydra_plugins.lmmsteer_plan.{plugin}"}
        ConfigStore.instance().store(group=f"hydra/{kind}", name="plan", node=node)
