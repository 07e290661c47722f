"""Hydra's sweep as one plan: all members of `-m` reach the verb at once.

The sweeper expands the overrides and writes no file; the launcher composes each member and hands
the list to the task function. A member that does not compose is handed on as its error, so that it
leaves the others running and is named at the end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from lmmsteer.fleet import grids

GROUPS = ("model", "method", "attribute", "dataset")
NAMING = ("model.path", "model.name", "method.name", "attribute.name", "dataset.name")
OF_DATASET = ("dataset", "prompts", "seeds", "sample", "limit", "shard_images")


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
    """Hydra's own sweep grammar (lists, ranges, globs), all members in one batch, no files.

    An experiment's `hydra.sweeper.params` and `grids` (see `grids`) are swept as well.
    """

    def __init__(self, params: Any = None, grids: Any = None) -> None:
        self.params: dict[Any, Any] = _container(params) or {}
        self.grids: list[Any] = _container(grids) or []

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
        parsed = parser.parse_overrides(arguments)
        if self.params or self.grids:
            members = self._of_experiment(parsed)
        else:
            members = BasicSweeper.split_arguments(parsed, None)[0]
        return self.launcher.launch(members, initial_job_idx=0)  # type: ignore[union-attr]

    def _of_experiment(self, parsed: Sequence[Override]) -> list[list[str]]:
        """The members of an experiment; what its grids vary, they name apart themselves."""
        asked = {override.get_key_element(): _asked(override) for override in parsed}
        own = {str(key) for grid in self.grids for key in grid}
        wanted = grids.narrowed(grids.read(self.params, self.grids), own, asked)
        self.launcher.named = own - asked.keys()  # type: ignore[union-attr]
        return list(grids.members(wanted))


class PlanLauncher(Launcher):
    """Composes every member, then calls the task function's `members` once.

    named: keys whose values an experiment names apart itself, so that folders need not.
    """

    named: Set[str] = frozenset()

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
            if key not in GROUPS and key not in NAMING and key not in self.named:
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


def _container(given: Any) -> Any:
    return OmegaConf.to_container(given) if OmegaConf.is_config(given) else given


def _asked(override: Override) -> list[str]:
    """The values of one key of the command line, as it writes them."""
    if override.is_sweep_override():
        if not override.is_discrete_sweep():
            raise HydraException(f"{override.input_line} is no list of values.")
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]


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
