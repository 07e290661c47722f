"""What each method costs: the engine under it against the engine unsteered, round by round.

    python -m jobs.cost --shape cpu-155m --pictures 4 --lengths fixed:64 --repeats 3 --threads 2

A random model of a published shape; what methods learn is made up in the shapes that a fit gives
it. A method's own work for a picture (a gradient step) is counted, a fit is not.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lmmsteer.device import Device
from lmmsteer.engine.benchmark.options import OPEN5, Options
from lmmsteer.engine.benchmark.shapes import build
from lmmsteer.engine.benchmark.workload import Workload, workload
from lmmsteer.engine.edit import Edit, FeatureEdit
from lmmsteer.engine.shared import Shared
from lmmsteer.methods import METHODS
from lmmsteer.methods.artifact import Artifact
from lmmsteer.methods.base import Attribute, Context, Learning
from lmmsteer.methods.random_direction import random_directions
from lmmsteer.models.lmm import Lmm

GENDER = Attribute("gender", "What is the gender of the person?", ("man", "woman", "he", "she"))
TEXTS = "text,label\n" + "".join(
    f"{who} waves number {n},{who}\n" for n in range(20) for who in ("man", "woman")
)
Made = Callable[[], Edit]


def made_up(lmm: Lmm, work: Workload, engine: Shared) -> dict[str, Made]:
    """Every kind of edit, as a function that does a shard's own work for it."""
    direction = Artifact({"directions": random_directions(1, 1, lmm.d_model)})
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts.csv"
        texts.write_text(TEXTS, encoding="utf-8")
        ala = METHODS["ala"](target=0.0, texts=str(texts), epochs=1, beta_steps=4)  # type: ignore[call-arg]
        fitted = ala.fit(lmm, Learning({}, GENDER, engine.edited, engine.generate))  # type: ignore[arg-type]

    def of(name: str, learned: Artifact | None = None, **parameters: Any) -> Made:
        method = METHODS[name](**parameters)
        context = Context(GENDER, learned, pictures=work.pictures, features=engine.features)
        return lambda: method.edit(lmm, work.requests, context)

    half = torch.ones(lmm.d_model)
    half[::4] = 0
    return {
        "prompt": of("prompt", prefix="Be fair."),
        "blocklist": of("blocklist"),
        "random_direction": of("random_direction"),
        "steered_dataset": of("ablation", direction, artifact="made up"),
        "steered_gradient": of("steered_gradient"),
        "ala": of("ala", fitted, target=0.0),
        "ala_lexicon": of(
            "ala", target=0.0, classifier="lexicon", lexicon={"man": 1.0, "woman": -1.0}
        ),
        "features": lambda: Edit(features=FeatureEdit(half, 1 - half)),
        "vdd": of("vdd"),
    }


def once(lmm: Lmm, work: Workload, engine: Shared, make: Made) -> float:
    """Seconds of one run, the edit included, nothing kept from the run before."""
    engine.cache.clear()
    started = time.perf_counter()
    for _ in engine.generate(
        lmm, work.requests, work.pictures, make(), work.sampling, work.lengths
    ):
        pass
    return time.perf_counter() - started


def rounds(
    seconds: Callable[[str | None], float], names: Sequence[str], repeats: int
) -> dict[str, list[float]]:
    """How many times as long as unsteered each method takes, in every round.

    2 s / (b + a): s the method's run, b and a the unsteered runs before and after it, which the
    next method shares. seconds: of one run; None is unsteered.
    """
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        before = seconds(None)
        for name in names:
            steered = seconds(name)
            after = seconds(None)
            found[name].append(2 * steered / (before + after))
            before = after
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    line = argparse.ArgumentParser("python -m jobs.cost", description=__doc__)
    line.add_argument("--shape", default="cpu-155m")
    line.add_argument("--pictures", type=int, default=4)
    line.add_argument("--lengths", default="fixed:64")
    line.add_argument("--slots", type=int)
    line.add_argument("--repeats", type=int, default=3)
    line.add_argument("--threads", type=int, default=torch.get_num_threads())
    line.add_argument("--methods", help="some of them, with commas between")
    asked = line.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    lmm = build(asked.shape, Device(kind), torch.float32 if kind == "cpu" else torch.bfloat16)
    prompts = dict(islice(OPEN5.items(), 5))
    options = Options(
        shape=asked.shape,
        pictures=asked.pictures,
        lengths=asked.lengths,
        prompts=prompts,
        seeds=(0, 1, 2),
    )
    work, engine = workload(options), Shared(asked.slots)
    made = made_up(lmm, work, engine)
    names = asked.methods.split(",") if asked.methods else list(made)
    if unknown := [name for name in names if name not in made]:
        line.error(f"no method is called {', '.join(unknown)} here; there are {', '.join(made)}")
    once(lmm, work.part(15, 4), engine, Edit)

    def seconds(name: str | None) -> float:
        return once(lmm, work, engine, Edit if name is None else made[name])

    ratios = rounds(seconds, names, asked.repeats)
    print(
        f"{asked.shape} on {kind}: {len(work.requests)} rows, {work.tokens} tokens, "
        f"{asked.repeats} rounds"
    )
    for name, found in ratios.items():
        print(f"{name:18} {statistics.median(found):5.2f}x  [{min(found):.2f}, {max(found):.2f}]")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
