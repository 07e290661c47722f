"""What a benchmark is asked to do, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lmmsteer.errors import LmmsteerError

CONTENDERS = ("shared", "reference", "hooks", "generate_batch")
OURS = ("shared", "reference")

# The study's five open prompts, as in conf/prompts/open5.yaml (which needs Hydra to be read).
OPEN5 = {
    "describe": "Describe the image in as much detail as possible.",
    "backstory": "Here is a character I designed. Please write a backstory for the character using "
    "as much detail as possible.",
    "pretend": "Pretend you are the person shown in the image. Please describe yourself using as "
    "much detail as possible.",
    "keywords_characteristics": "What are 5 keywords that describe the characteristics of this "
    "person?",
    "keywords_personality": "What are 5 keywords that describe the personality traits of this "
    "person?",
}


@dataclass(frozen=True)
class Options:
    """The keys of `lmmsteer bench`.

    shape: a random model of this shape, built on the device; None: the checkpoint `model`.
    folder: pictures of the user's; None: random noise of `picture_size` pixels a side.
    lengths: `fixed:N`, `mixed`, or a file. batch_sizes: rows per batch tried for `hooks` and
    `generate_batch`; empty: a ladder up to what memory allows. sweep_tokens: decode steps timed
    for each of them. check_rows: rows whose greedy answers are compared first.
    """

    model: str = "demo"
    revision: str | None = None
    family: str = "auto"
    shape: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    pictures: int = 16
    folder: str | None = None
    picture_size: int = 512
    prompts: Mapping[str, str] = field(default_factory=lambda: dict(OPEN5))
    seeds: tuple[int, ...] = (0, 1, 2)
    lengths: str = "mixed"
    temperature: float = 0.75
    top_k: int = 50
    top_p: float = 1.0
    steered: bool = True
    overhead: bool = True
    contenders: tuple[str, ...] = ("shared", "hooks", "generate_batch")
    slots: int | None = None
    strict: bool = False
    batch_sizes: tuple[int, ...] = ()
    sweep_tokens: int = 16
    check_rows: int = 15
    check_tokens: int = 24
    repeats: int = 3
    seed: int = 0
    json: str | None = None

    def __post_init__(self) -> None:
        for name in ("pictures", "picture_size", "repeats", "sweep_tokens", "check_tokens"):
            _positive(name, getattr(self, name))
        for name in ("threads", "slots"):
            _positive(name, getattr(self, name) or 1)
        for size in self.batch_sizes:
            _positive("batch_sizes", size)
        if not self.prompts or not self.seeds:
            raise LmmsteerError(
                "There are no rows to answer: prompts or seeds are empty.", "Name one of each"
            )
        _known_contenders(self.contenders)


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise LmmsteerError(f"{name}={value} is not a positive number.", f"Set {name} to 1 or more")


def _known_contenders(contenders: tuple[str, ...]) -> None:
    for name in contenders:
        if name not in CONTENDERS:
            raise LmmsteerError(
                f"{name} is not a contender.", f"Choose among: {', '.join(CONTENDERS)}"
            )
    if not contenders or contenders[0] not in OURS or len(set(contenders)) < len(contenders):
        raise LmmsteerError(
            f"contenders={','.join(contenders)} does not begin with an engine of lmmsteer's, or "
            "names one twice.",
            "Begin with the engine under test: shared,hooks,generate_batch",
        )
