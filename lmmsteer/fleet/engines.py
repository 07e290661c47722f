"""The engines by the name that `engine=` takes, and what a log says of one's last run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from PIL import Image

from lmmsteer.config import EngineConfig
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from lmmsteer.errors import LmmsteerError
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request, Response

ENGINES = ("shared", "reference")


class Engine(Protocol):
    """What the fleet asks of an engine."""

    def edited(self, lmm: Lmm, edit: Edit) -> AbstractContextManager[Any]: ...

    def generate(
        self,
        lmm: Lmm,
        requests: Sequence[Request],
        pictures: Mapping[str, Image.Image],
        edit: Edit,
        sampling: Sampling,
    ) -> Iterator[Response]: ...


def check(config: EngineConfig) -> None:
    """Refuse an engine that is not there or cannot do what is asked of it.

    Raises: LmmsteerError for an unknown name, and for strict=true without engine=shared.
    """
    if config.name not in ENGINES:
        known = ", ".join(ENGINES)
        raise LmmsteerError(f"engine.name={config.name} is unknown.", f"Known engines: {known}")
    if config.strict and config.name != "shared":
        raise LmmsteerError(
            f"engine.strict=true is not known to engine={config.name}, whose batches change a "
            "row's last bits.",
            "Use engine=shared engine.strict=true",
        )


def adapts(config: EngineConfig, device: str) -> bool:
    """Whether an engine runs optimum-habana's models there instead of transformers' own."""
    return config.name == "reference" and device == "hpu"


def open_engine(config: EngineConfig) -> Shared | Reference:
    """The engine that a config names; a worker keeps it, with what it has prepared."""
    if config.name == "shared":
        return Shared(slots=config.slots, strict=config.strict)
    return Reference() if config.slots is None else Reference(slots=config.slots)


def progress(engine: Engine) -> int:
    """A number that changes with every step of an engine's run, and from run to run."""
    stats = getattr(engine, "stats", None)
    if stats is None:
        return 0
    counts = (stats.steps, stats.tokens, stats.encoded, stats.prefixes, stats.suffixes, stats.rows)
    counts = (*counts, stats.graphs)
    return hash((id(stats), *counts))


def slots_of(engine: Engine) -> int:
    """The slots of an engine's last run, 0 where it has had none."""
    return getattr(getattr(engine, "stats", None), "slots", 0)


def facts_of(engine: Engine) -> dict[str, Any]:
    """What the log keeps of an engine's last run: slots and why, where the time went."""
    stats = getattr(engine, "stats", None)
    if stats is None:
        return {}
    stages = ("vision", "prefix", "suffix", "decode", "wait")
    seconds = {name: round(getattr(stats, name), 3) for name in stages}
    facts = {"slots": stats.slots, "why": stats.why, "tokens": stats.tokens, "steps": stats.steps}
    fallback = {"fallback": list(stats.fallback)} if stats.fallback else {}
    graphs = {name: n for name in ("graphs", "compiled", "warmed") if (n := getattr(stats, name))}
    warm = {"warm": round(stats.warm, 3)} if stats.warm else {}
    return {**facts, **seconds, **fallback, **graphs, **warm}
