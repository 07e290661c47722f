"""python -m tests.papers FOLDER: the experiment files, from manifest to report, in miniature.

Drawn people in the layouts of the published data sets, the demo LMM in LLaVA's place and tiny
random models of the other real classes: what is shown is that every step of the three studies runs
by its own file, and what its tables look like. No figure says anything about a model.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from lmmsteer.models import files
from tests import tiny
from tests.models.test_toxicity import saved
from tests.papers.data import write_all
from tests.tiny_families import save_tiny

KINDS = {
    "meta-llama/Llama-3.2-11B-Vision-Instruct": "mllama",
    "google/paligemma-3b-mix-224": "paligemma",
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2_5_vl",
    "Salesforce/blip-image-captioning-large": "blip",
}
DEMO_AS = "llava-hf/llava-1.5-7b-hf"
TOY = "dataset.licence='TOY FIGURES: drawn people and toy models, they say nothing'"
SMALL = ["limit=4", "sampling.max_new_tokens=16", "shard_images=4"]
# A random model's answers hang on the words' direction in no way that the guards would pass.
UNGUARDED = ["method.kl_max=1000", "method.drop_last=0", "method.held_out=4"]


def main(folder: Path) -> None:
    start = time.monotonic()
    tiny.TEXT += (
        8 * " white black asian young old slim heavy man woman"
    )  # Toy tokenizers must spell some words of every list.
    data = write_all(folder / "data")
    save_clipcap(data / "clipcap")
    hub = write_hub(folder / "hub")
    toxic = saved(folder / "toxicity", ["fine", "toxic"])
    measured = [f"analysis.toxicity={toxic}", "analysis.caption_metrics=[rouge_l]"]
    direct = ["analysis.direct=gender", "analysis.by=gender"]
    instruct = f"method.neutral_from={data / 'llava_instruct_80k.json'}"
    for name, fits, asked in (
        ("steering", [*UNGUARDED, instruct], []),
        ("ala", [], [*measured, *direct]),
        ("howard", None, measured),
    ):
        given, out = [f"experiment=paper_{name}", f"data={data}", TOY], f"out={folder / name}"
        _run(hub, "plan", *given, *SMALL, out)
        if fits is not None:
            _run(hub, "fit", f"experiment=paper_{name}_fit", *given[1:], "limit=48", *fits, out)
        _run(hub, "generate", *given, *SMALL, out)
        _run(hub, "verify", out)
        _run(hub, "analyze", out, *asked)
        _run(hub, "report", out, "report.gallery=50")
        _show(folder / name / "report/tables.md", name)
    print(f"The three experiments took {time.monotonic() - start:.0f} s.")


def save_clipcap(folder: Path) -> None:
    if not folder.exists():
        save_tiny("clipcap", folder, d_model=64)


def write_hub(cache: Path) -> Path:
    """A hub's cache that holds toy models under the names of the papers' models."""
    for name in (DEMO_AS, *KINDS):
        place = cache / f"models--{name.replace('/', '--')}"
        if not (place / "refs/main").exists():
            commit = "0" * 40
            where = place / "snapshots" / commit
            if name == DEMO_AS:
                shutil.copytree(files.DEMO, where)
            else:
                save_tiny(KINDS[name], where, d_model=64)
            (place / "refs").mkdir()
            (place / "refs/main").write_text(commit)
    return cache


def _run(hub: Path, verb: str, *words: str) -> None:
    print(f"\n$ lmmsteer {verb} {shlex.join(words)}", flush=True)
    env = {**os.environ, "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", "jobs", verb, *words], env=env)
    if done.returncode != 0:
        raise SystemExit(f"lmmsteer {verb} ended with {done.returncode}.")


def _show(tables: Path, name: str) -> None:
    print(f"\nTOY FIGURES of paper_{name}: drawn people, toy models. They say nothing.\n")
    print(tables.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
