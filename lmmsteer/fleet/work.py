"""What is to be done and what is sent: items, the calls they become, a model's queue of them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lmmsteer.fleet.task import FitTask, ModelSpec, Report, Task

Kind = Literal["load", "shard", "probe", "fit"]
Cause = Literal["died", "silent", "node"]


@dataclass(eq=False, slots=True)
class Item:
    """One piece of work: a shard of a cell, or a fit.

    digests: of the shard's rows and pictures, as the manifest names them.
    deaths: workers that it is blamed for; losses: nodes that went down under it. probe: the row
    that is answered alone next, once `deaths` are too many. excluded: rows that killed a worker
    when they were alone, by their index in the shard, and as what. open: calls of it under way.
    """

    task: Task | FitTask
    part: str
    rows: int
    label: str
    digests: tuple[str, str] | None = None
    deaths: int = 0
    losses: int = 0
    probe: int | None = None
    excluded: dict[int, str] | None = None
    probed: bool = False
    resolved: bool = False
    open: int = 0

    @property
    def model(self) -> ModelSpec:
        return self.task.model

    @property
    def folder(self) -> str:
        """The cell's folder; a fit has none."""
        return self.task.folder if isinstance(self.task, Task) else ""


@dataclass(frozen=True, eq=False)
class Call:
    """What one worker is asked to do: load a model, answer a shard, or one row of it alone, fit."""

    kind: Kind
    model: ModelSpec
    item: Item | None = None
    row: int | None = None
    excluded: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Work that was given up, and why. part: the shard; empty for `count` shards of a cell."""

    label: str
    part: str
    error: str
    count: int = 1

    def __str__(self) -> str:
        if self.part or self.count == 1:
            return f"{' '.join(word for word in (self.label, self.part) if word)}: {self.error}"
        return f"{self.label}: {self.count} shards not answered: {self.error}"


@dataclass(eq=False)
class Hand:
    """A worker as the scheduler sees it. open: calls sent and not answered, in their order.

    stage, count: what it last said of its progress; since: when that last changed.
    """

    number: int
    open: deque[Call] = field(default_factory=deque)
    model: ModelSpec | None = None
    stage: str = ""
    count: int = -1
    since: float = 0.0


@dataclass
class Budget:
    """Rows of a cell: planned, failed so far, and the share that may fail."""

    label: str
    planned: int
    failed: int
    share: float

    @property
    def spent(self) -> bool:
        """More rows have failed than may, whatever comes: no further shard can mend that."""
        return self.failed > self.share * self.planned


class Lot:
    """A model's work: what came back first, then the rest in its order, made when it is wanted."""

    def __init__(self, model: ModelSpec, count: int, items: Iterator[Item]) -> None:
        self.model, self.left = model, count
        self._items = items
        self._back: deque[Item] = deque()

    def take(self, stopped: Mapping[str, str], skipped: Callable[[Item], None]) -> Item | None:
        """The next item of a cell that is not stopped; those that are passed over are told of."""
        while self.left > 0:
            self.left -= 1
            item = self._back.popleft() if self._back else next(self._items, None)
            if item is None:
                self.left = 0
            elif item.folder in stopped:
                skipped(item)
            else:
                return item
        return None

    def give_back(self, item: Item) -> None:
        self._back.appendleft(item)
        self.left += 1

    def drop(self) -> Counter[str]:
        """Empty it: how many items of each label there were."""
        dropped = Counter(item.label for item in self._back)
        self._back.clear()
        dropped.update(item.label for item in self._items)
        self.left = 0
        return dropped


Noted = Callable[..., None]
Reported = Callable[[Item, Report], None]


def lots(items: list[Item]) -> list[Lot]:
    """Items in hand as lots, a model's together, in the order of the first of each."""
    by_model: dict[ModelSpec, list[Item]] = {}
    for item in items:
        by_model.setdefault(item.model, []).append(item)
    return [Lot(model, len(mine), iter(mine)) for model, mine in by_model.items()]
