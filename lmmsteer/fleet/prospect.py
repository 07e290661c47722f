"""What a plan comes to: for each cell, and for members that wait for an artifact, rows and hours.

Nothing is written, no weights are loaded and no Ray is started.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from lmmsteer import manifest
from lmmsteer.config import ClusterConfig, DeviceConfig, GenerateConfig
from lmmsteer.datasets.base import DataSet
from lmmsteer.fleet import cells, cluster, resolve, sizes
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.outlook import Forecast, summed, total
from lmmsteer.fleet.plan import Plan
from lmmsteer.fleet.rates import Match, Rates, Wanted
from lmmsteer.fleet.resolve import Job
from lmmsteer.fleet.sizes import Extent
from lmmsteer.fleet.standing import NAMES
from lmmsteer.fleet.steering import MissingArtifact, method_of

HOUR = 3600.0


@dataclass(frozen=True)
class Ahead:
    """A cell, or a member whose artifact is missing: what is left of it, and at which rate.

    row_bytes: of a response, from parts that are there; None where there are none yet.
    """

    label: str
    names: Mapping[str, str]
    config: GenerateConfig
    extent: Extent
    rows_left: int
    shards_left: int
    match: Match | None
    row_bytes: float | None
    recorded: bool = False

    @property
    def forecast(self) -> Forecast | None:
        """Card-seconds, or None where no rate is known."""
        if not self.rows_left:
            return Forecast()
        return self.match.pace.forecast(self.rows_left) if self.match else None

    @property
    def bytes(self) -> int | None:
        """Of the responses that are left."""
        if not self.rows_left:
            return 0
        return None if self.row_bytes is None else round(self.row_bytes * self.rows_left)


class Prospect:
    """A plan with everything that is known of its size and its time."""

    def __init__(self, plan: Plan, members: Sequence[Member], rates: Rates) -> None:
        self.plan, self.rates, self.store = plan, rates, plan.store
        self._extents: dict[str, Extent] = {}
        self.cells = [self._of_job(job) for job in plan.jobs]
        missing = {r.label for r in plan.refused if isinstance(r.error, MissingArtifact)}
        waiting = [m for m in members if m.config is not None and m.label in missing]
        self.waiting = {member.label: self._of_member(member) for member in waiting}

    @cached_property
    def all(self) -> list[Ahead]:
        return [*self.cells, *self.waiting.values()]

    @property
    def extents(self) -> Iterable[Extent]:
        """The manifests, each once."""
        return self._extents.values()

    @property
    def unknown(self) -> list[str]:
        """Labels of what has no rate."""
        return [one.label for one in self.all if one.forecast is None]

    def card_seconds(self) -> Forecast:
        """Of all whose rate is known."""
        return total(_paced(self.all))

    def seconds(self) -> Forecast | None:
        """The same shared among the workers; None where it is not known how many there are."""
        shares = []
        for group in self._machines():
            workers = self._workers(group)
            if workers is None:
                return None
            shares.append(total(_paced(group)).times(1 / workers))
        return summed(shares)

    def workers(self) -> int | None:
        """The most that are at work at once."""
        found = [self._workers(group) for group in self._machines()]
        return None if None in found else max((n for n in found if n), default=0)

    def price(self) -> Forecast | None:
        """Card-hours times device.price; None where a device has none."""
        prices = []
        for group in self._machines():
            price = group[0].config.device.price
            if price is None:
                return None
            prices.append(total(_paced(group)).times(price / HOUR))
        return summed(prices) if prices else None

    def _machines(self) -> list[list[Ahead]]:
        """What is to be done, by the machines that it asks for: they are used one after another."""
        groups: dict[str, list[Ahead]] = {}
        for one in self.all:
            if one.rows_left:
                key = f"{one.config.device} {one.config.cluster}"
                groups.setdefault(key, []).append(one)
        return list(groups.values())

    def _workers(self, group: Sequence[Ahead]) -> int | None:
        """cluster.workers, or this machine's cards; of a cluster elsewhere nobody was asked."""
        config, work = group[0].config, sum(one.shards_left for one in group)
        if config.cluster.workers is None and cluster.address_of(config.cluster) is not None:
            return None
        return cluster.workers_wanted(config.cluster, config.device, max(1, work))

    def _of_job(self, job: Job) -> Ahead:
        folder = job.cell.folder
        made = self.plan.manifests.get(job.cell.dataset)
        extent = self._extent(made, job.cell.dataset, job.dataset, job.identity)
        left = self.plan.left(job) if made is not None else []
        there = sorted({s.name for s in made.shards} - {s.name for s in left}) if made else []
        spec = job.task.model
        match = self._match(spec.name, spec.digest, job.cell.method, job.config)
        return Ahead(
            label=str(job.cell),
            names={key: getattr(job.cell, key) for key in NAMES},
            config=job.config,
            extent=extent,
            rows_left=sum(s.rows for s in left) if made is not None else extent.rows,
            shards_left=len(left) if made is not None else extent.shards,
            match=match,
            row_bytes=sizes.row_bytes(self.store, folder, there) or _row_bytes(match),
            recorded=self.store.exists(cells.path_of(folder)),
        )

    def _of_member(self, member: Member) -> Ahead:
        """A member that needs an artifact first; it has no parts, for none could be made."""
        assert member.config is not None
        config = resolve.typed_config(member.config)
        spec, _ = resolve.model_spec(config, member.suffix("model"))
        name = config.dataset["name"] + member.suffix("dataset")
        dataset, identity = resolve.manifest_of(config, name)
        made = self.plan.manifests.get(name) or manifest.load(self.store, name)
        made = made if made is not None and dict(made.identity) == identity else None
        extent = self._extent(made, name, dataset, identity)
        match = self._match(spec.name, spec.digest, method_of(config)[1].name, config)
        return Ahead(
            label=member.label,
            names={},
            config=config,
            extent=extent,
            rows_left=extent.rows,
            shards_left=extent.shards,
            match=match,
            row_bytes=_row_bytes(match),
        )

    def _extent(
        self,
        made: manifest.Manifest | None,
        name: str,
        dataset: DataSet,
        identity: Mapping[str, Any],
    ) -> Extent:
        key = f"{name} {json.dumps(identity, sort_keys=True)}"
        if key not in self._extents:
            self._extents[key] = sizes.extent_of(made, dataset, identity)
        return self._extents[key]

    def _match(self, model: str, digest: str, method: str, config: GenerateConfig) -> Match | None:
        card = _card(config.cluster, config.device)
        return self.rates.match(Wanted(model, digest, method, card, asdict(config)))


def _card(where: ClusterConfig, wanted: DeviceConfig) -> str | None:
    """The card's name on this machine; None for a cluster elsewhere."""
    if cluster.address_of(where) is not None:
        return None
    return cluster.device_of(where, wanted).name()


def _paced(ahead: Iterable[Ahead]) -> list[tuple[Any, int]]:
    return [(one.match.pace, one.rows_left) for one in ahead if one.match and one.rows_left]


def _row_bytes(match: Match | None) -> float | None:
    """Bytes of a response where the rate was recorded."""
    for one in match.found if match else ():
        if one.folder is not None:
            names = sorted(cells.done(one.store, one.folder))
            found = sizes.row_bytes(one.store, one.folder, names)
            if found is not None:
                return found
    return None
