"""bench: this engine against transformers' generate with hooks, on the user's model and card."""

from __future__ import annotations

import json
import sys

from transformers.utils import logging as transformers_logging

from jobs import explain
from lmmsteer import config as configs
from lmmsteer.config import BenchConfig
from lmmsteer.engine.bench import show
from lmmsteer.engine.benchmark.options import Options
from lmmsteer.engine.benchmark.run import bench
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet.launcher import Member
from lmmsteer.store import open_store

REPORT = "report/bench.json"
SAME = (
    *("shape", "pictures", "folder", "picture_size", "lengths", "steered", "overhead"),
    *("sweep_tokens", "check_rows", "check_tokens", "repeats", "seed"),
)


def run(members: list[Member]) -> int:
    """Every member's benchmark, one after the other; all are checked before the first is run."""
    asked = [_asked(member) for member in members]
    transformers_logging.set_verbosity_error()
    for config, options in asked:
        found = bench(options, lambda line: print(line, file=sys.stderr))
        show(found, options.json)
        if config.out is not None:
            text = json.dumps(found, indent=1) + "\n"
            open_store(config.out).write_bytes(REPORT, text.encode())
    return 0


def _asked(member: Member) -> tuple[BenchConfig, Options]:
    if member.config is None:
        raise explain.sentence(member.error or ValueError("no config"), "bench")
    config = configs.typed(member.config, BenchConfig, "")
    return config, options_of(config)


def options_of(config: BenchConfig) -> Options:
    """The keys of the verb as the options of python -m lmmsteer.engine.bench."""
    return Options(
        model=config.model.path,
        revision=config.model.revision,
        family=config.model.family,
        dtype=config.model.dtype,
        device=config.device.kind,
        threads=config.device.threads,
        prompts=configs.prompts(config.prompts),
        seeds=tuple(config.seeds),
        temperature=config.sampling.temperature,
        top_k=config.sampling.top_k,
        top_p=config.sampling.top_p,
        slots=config.engine.slots,
        strict=config.engine.strict,
        contenders=tuple(config.contenders),
        batch_sizes=tuple(config.batch_sizes),
        json=_target(config.json),
        **{name: getattr(config, name) for name in SAME},
    )


def _target(json: object) -> str | None:
    if json is None or json is False:
        return None
    if json is True:
        return "-"
    if not isinstance(json, str):
        raise LmmsteerError(f"json={json} is neither a file nor true.", "json=bench.json")
    return json
