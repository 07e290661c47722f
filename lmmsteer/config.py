"""The typed schema of every config, in Hydra's ConfigStore: a misspelt key fails by name.

Knows the keys of design and nothing of what they cause. Method parameters are typed by the methods
themselves; `typed` checks any composed group against its dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmmsteer.errors import LmmsteerError
from lmmsteer.prompts import read_prompts
from lmmsteer.texts import problem_of_name, problem_of_text

T = TypeVar("T")


@dataclass
class ModelConfig:
    """Which LMM: a folder saved by save_pretrained, a hub id, or `demo`."""

    path: str = MISSING
    name: str | None = None  # the last part of the path
    revision: str | None = None
    dtype: str = "auto"
    family: str = "auto"


@dataclass
class AttributeConfig:
    """A protected attribute: the direct question about it and the words that mention it."""

    name: str = MISSING
    question: str | None = None
    words: list[str] = field(default_factory=list)
    note: str | None = None


@dataclass
class PromptsConfig:
    """The prompts each picture is shown with: {id: text}, or a YAML or CSV file (id, text)."""

    name: str = MISSING
    items: dict[str, str] = field(default_factory=dict)
    file: str | None = None


@dataclass
class SamplingConfig:
    temperature: float = 0.75
    top_k: int = 50
    top_p: float = 1.0
    max_new_tokens: int = 512


@dataclass
class EngineConfig:
    """Which engine, how many rows it answers at a time (null: from the device's memory), and
    whether a row's bytes must not depend on its companions."""

    name: str = "shared"
    slots: int | None = None
    strict: bool = False


@dataclass
class DeviceConfig:
    """auto, cuda, hpu or cpu; threads: CPU threads of one worker; price: money for a card-hour.

    mode: of Gaudi cards, `lazy` (null is that), `eager` or `compile`. recipes: a folder on each
    node's local disk where Gaudi's compiled graphs are kept for the next run (null: they are not).
    """

    kind: str = "auto"
    threads: int = 1
    price: float | None = None
    mode: str | None = None
    recipes: str | None = None


@dataclass
class ClusterConfig:
    """address: an existing Ray cluster (null: this machine); workers: null is one for each card.

    deadline: seconds without a token after which a worker is given up. drain: seconds that open
    shards have after a stop was asked for.
    """

    address: str | None = None
    workers: int | None = None
    deadline: float = 600.0
    drain: float = 15.0


@dataclass
class SampleConfig:
    """Which pictures of a data set, where not all: `each` of them (null: all) of every group that
    the columns `by` make, drawn by `seed`; whole sets of those that share `unit`."""

    each: int | None = None
    by: list[str] = field(default_factory=list)
    unit: str = "image_id"
    seed: int = 0


@dataclass
class GenerateConfig:
    """The keys that manifest, plan, fit and generate share.

    data: the folder in which an experiment's data sets lie.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    method: Any = MISSING
    attribute: AttributeConfig = field(default_factory=AttributeConfig)
    dataset: Any = MISSING
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    shard_images: int = 16
    sample: SampleConfig = field(default_factory=SampleConfig)
    limit: int | None = None
    data: str | None = None
    out: str = MISSING
    max_failed_share: float = 0.01
    mixed_stack: bool = False


@dataclass
class PlanConfig(GenerateConfig):
    """The same, shown as text or JSON; rates: output folders whose logs say how fast a card is."""

    json: bool = False
    rates: Any = None


@dataclass
class ManifestConfig(GenerateConfig):
    """check: look at every picture, and list those that cannot be shown or occur twice."""

    check: bool = True


@dataclass
class OutConfig:
    """The keys of verbs that need nothing but the output folder."""

    out: str = MISSING
    json: bool = False


@dataclass
class StatusConfig(OutConfig):
    """watch: true, or seconds from look to look; max_failed_share: null is each cell's own."""

    watch: Any = False
    max_failed_share: float | None = None


@dataclass
class VerifyConfig(OutConfig):
    """repair: move what is bad to out/trash. sample: share of the shards that are read, chosen by
    `sample_seed`; workers: processes (null: by the work); grace: seconds a temporary is let be."""

    repair: bool = False
    sample: float = 1.0
    sample_seed: int = 0
    workers: int | None = None
    grace: float = 3600.0


@dataclass
class ResumeConfig:
    """retry: true, or a list of error kinds, does the shards of failed rows again."""

    out: str = MISSING
    retry: Any = False
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    max_failed_share: float = 0.01
    mixed_stack: bool = False


@dataclass
class DemoDataConfig:
    """Where to draw the demo people, how many, and of which split (eval or fit)."""

    out: str = MISSING
    images: int = 120
    seed: int = 0
    split: str = "eval"


@dataclass
class DoctorConfig:
    """What to check: the device, and where named the model and the output folder.

    weights: the model is loaded and tried; false looks at its files alone.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    weights: bool = True
    out: str | None = None
    json: bool = False


@dataclass
class AnalyzeConfig:
    """Which analysis, with its keys; allow_partial: also of outputs that are not finished."""

    analysis: Any = MISSING
    out: str = MISSING
    allow_partial: bool = False


@dataclass
class ReportConfig:
    """report: rows in the gallery and the size of its pictures."""

    report: Any = MISSING
    out: str = MISSING


@dataclass
class ViewConfig:
    """host, port: where the report is served (port 0: a free one). open: in the browser."""

    out: str = MISSING
    host: str = "127.0.0.1"
    port: int = 8000
    open: bool = False


@dataclass
class BenchEngineConfig:
    """The engine under test; slots: rows at a time (null: its own choice)."""

    slots: int | None = None
    strict: bool = False


@dataclass
class BenchConfig:
    """The keys of bench; shape: a random model of a published shape instead of model.path."""

    model: ModelConfig = field(default_factory=ModelConfig)
    shape: str | None = None
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    engine: BenchEngineConfig = field(default_factory=BenchEngineConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    pictures: int = 16
    folder: str | None = None
    picture_size: int = 512
    lengths: str = "mixed"
    steered: bool = True
    overhead: bool = True
    contenders: list[str] = field(default_factory=lambda: ["shared", "hooks", "generate_batch"])
    batch_sizes: list[int] = field(default_factory=list)
    sweep_tokens: int = 16
    check_rows: int = 15
    check_tokens: int = 24
    repeats: int = 3
    seed: int = 0
    json: Any = None
    out: str | None = None


def register(name: str, node: type) -> None:
    """Make a dataclass the schema of the primary config `name`."""
    ConfigStore.instance().store(name=f"{name}_schema", node=node)


def _in_data(name: str, *, _root_: Any) -> str:
    """`${in_data:NAME}`: NAME in the folder `data`; without one there is no value."""
    data = _root_.get("data")
    return f"{data}/{name}" if data else MISSING


def register_all() -> None:
    """The primary schemas that need no other room, and what configs may compute."""
    OmegaConf.register_new_resolver("in_data", _in_data, replace=True)
    for name in ("fit", "generate"):
        register(name, GenerateConfig)
    register("manifest", ManifestConfig)
    register("plan", PlanConfig)
    register("resume", ResumeConfig)
    register("status", StatusConfig)
    register("verify", VerifyConfig)
    register("demo_data", DemoDataConfig)
    register("doctor", DoctorConfig)
    register("analyze", AnalyzeConfig)
    register("report", ReportConfig)
    register("view", ViewConfig)
    register("bench", BenchConfig)


def typed(values: Any, schema: type[T], group: str) -> T:
    """A composed group as its dataclass; unknown keys, wrong types, missing values are named."""
    plain = OmegaConf.to_container(values, resolve=True) if OmegaConf.is_config(values) else values
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), plain)
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        what = explain(error, group)
        raise LmmsteerError(what, _mend(what, group)) from error


def _mend(what: str, group: str) -> str:
    """What to do about a refusal of `typed`."""
    if what == "dataset.path has no value.":
        return (
            "Name its folder, or the one in which all data sets lie: dataset.path=DIR or data=DIR"
        )
    if what.endswith(" has no value."):
        return f"Give one: {what.partition(' ')[0]}=VALUE"
    if group:
        return f"See its keys with: lmmsteer VERB --cfg job --package {group}"
    return "See the keys with --help"


def explain(error: OmegaConfBaseException, group: str = "") -> str:
    """An OmegaConf error as one sentence that names the key."""
    key = str(error.full_key or error.key or "")
    name = f"{group}.{key}" if group and key else (key or group)
    first = str(error.msg or error).strip().splitlines()[0].rstrip(".")
    if "Missing mandatory value" in first:
        return f"{name} has no value."
    if "not in" in first:
        return f"{name} is not a key of this config."
    return f"{name}: {first}."


def prompts(config: PromptsConfig) -> dict[str, str]:
    """The prompts by id; `prompts.file` replaces the composed ones."""
    items = dict(config.items) if config.file is None else read_prompts(Path(config.file))
    if not items:
        raise LmmsteerError(
            "There are no prompts.", "Name some: prompts=open5 or prompts.file=FILE"
        )
    for key, text in items.items():
        if not text or not text.strip():
            raise LmmsteerError(f"The prompt {key} is empty.", "Write its text, or take it out.")
        if problem := problem_of_name(key) or problem_of_text(text):
            raise LmmsteerError(f"A prompt cannot be stored: {problem}.", "Mend its id or text.")
    return items
