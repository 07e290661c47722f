"""lmmsteer <verb> [hydra overrides]: finds the verb, lets Hydra compose, explains errors.

Exit codes: 0 everything asked for is there; 1 something is missing or failed, and is named;
2 refused before any work.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import lmmsteer
from jobs import explain
from lmmsteer import config
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.fleet import launcher

CONF = Path(__file__).resolve().parent.parent / "conf"

VERBS = {
    "doctor": "checks device, Ray, storage and extras, tries the model, and says what mends them",
    "demo-data": "draws the demo people and their labels into a folder",
    "manifest": "data set x prompts x seeds as Parquet parts",
    "plan": "cells, rows, shards, hours, bytes, price; loads no weights",
    "fit": "what a method learns: directions and their scores",
    "generate": "answers what is left of a cell or, with -m, of a sweep",
    "resume": "the same from the output folder alone; retry=true does failed rows again",
    "status": "cells by done, left, failed; rate, time left, the last errors",
    "verify": "every part re-read; repair=true moves bad ones aside, to be made again",
    "analyze": "mentions, sentiment, occupation, judge, ...: answers to scores",
    "report": "tables, plots, one HTML page and the data-set card",
    "view": "the report in a browser, with the manifest's pictures in full size",
    "bench": "this engine against transformers' generate with hooks, on your model and card",
}

USAGE = """lmmsteer <verb> [key=value ...]

Steered answers of large multimodal models: picture x prompt x seed, for each model and method.

Verbs:
{verbs}

Examples:
  lmmsteer generate -m method=unsteered,random_direction out=runs/try limit=8
  lmmsteer generate --help
"""


class Verb:
    """Hydra's task function: a plain run is a plan of one member."""

    def __init__(self, run: Callable[[list[launcher.Member]], int]) -> None:
        self.run = run
        self.code = 0
        self.error: Exception | None = None
        self.__module__ = __name__  # Hydra asks where the task function lives

    def __call__(self, cfg: DictConfig) -> None:
        self.members([launcher.Member(cfg)])

    def members(self, members: list[launcher.Member]) -> None:
        try:
            self.code = self.run(members)
        except Exception as error:  # raised again once Hydra, which would comment on it, is done
            self.error = error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"lmmsteer {lmmsteer.__version__}")
        return 0
    verb, *rest = arguments
    rest = [spelled(verb, word) for word in rest]
    rest.sort(key=lambda word: not _option(word))  # argparse wants them first
    if verb not in VERBS:
        print(f"lmmsteer: {verb} is not a verb.\n\n{_usage()}", file=sys.stderr)
        return 2
    try:
        return _run(verb, rest)
    except RunFailed as error:
        return _tell(error, 1)
    except LmmsteerError as error:
        return _tell(error, 2)
    except (HydraException, OmegaConfBaseException) as error:
        return _tell(explain.sentence(error, verb), 2)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command again does what is missing.", file=sys.stderr)
        return 1


def _option(word: str) -> bool:
    """`-m`, or an option that holds its value: `--config-dir=DIR`."""
    return word in ("-m", "--multirun") or (word.startswith("--") and "=" in word)


def spelled(verb: str, word: str) -> str:
    """A word as Hydra's grammar reads it: values with `=` in quotes, and our own short forms."""
    return _quoted(_long(verb, word))


def _long(verb: str, word: str) -> str:
    """What Hydra's grammar would not read: `--watch` of status, `rates=A,B` of plan."""
    key, _, value = word.partition("=")
    if verb == "status" and key == "--watch":
        return f"watch={value or 'true'}"
    if verb == "plan" and key == "rates" and "," in value and value[0] not in "'\"[":
        return "rates=[" + ",".join(f"'{folder}'" for folder in value.split(",")) + "]"
    return word


def _quoted(word: str) -> str:
    """A value that holds `=`, as our own folders' names do, quoted as Hydra's grammar wants it."""
    key, _, value = word.partition("=")
    if "=" not in value or value[0] in "'\"[{" or any(c in value for c in ",()'"):
        return word
    return f"{key}='{value}'"


def _run(verb: str, rest: list[str]) -> int:
    os.environ["HYDRA_FULL_ERROR"] = "1"
    stem = verb.replace("-", "_")
    config.register_all()
    launcher.register()
    module: Any = importlib.import_module(f"jobs.{stem}")
    gc.enable()
    task = Verb(module.run)
    sys.argv = [f"lmmsteer {verb}", *rest]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=stem)(task)()  # type: ignore[arg-type]
    if task.error is not None:
        raise task.error
    return task.code


def _tell(error: LmmsteerError, code: int) -> int:
    print(f"lmmsteer: {error.what}", file=sys.stderr)
    if error.mend:
        print(error.mend, file=sys.stderr)
    return code


def _usage() -> str:
    width = max(map(len, VERBS))
    return USAGE.format(verbs="\n".join(f"  {v:{width}}  {what}" for v, what in VERBS.items()))


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def cli() -> None:
    """The command itself: SIGTERM ends it as Ctrl-C does, and its code is the process's.

    What is imported lives as long as the process: no collector looks through it, neither while it
    is loaded nor at the end.
    """
    gc.disable()
    atexit.register(gc.freeze)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())


if __name__ == "__main__":
    cli()
