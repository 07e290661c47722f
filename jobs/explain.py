"""Hydra's and OmegaConf's errors as one sentence each."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from lmmsteer.errors import LmmsteerError

GRID = re.compile(r"^hydra\.sweeper\.(?:params|grids\[\d+\])\.")
CONF = Path(__file__).resolve().parent.parent / "conf"


def sentence(error: Exception, verb: str) -> LmmsteerError:
    """What was wrong with the command line, and how to see what is right."""
    mend = f"See the keys and choices with: lmmsteer {verb} --help"
    if isinstance(error, LmmsteerError):
        return error
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error, mend)
    if isinstance(error, OverrideParseException):
        return LmmsteerError(f"{error.override!r} is not of the form key=value.", mend)
    inner = _omegaconf(error)
    if isinstance(inner, MissingMandatoryValue):
        return _missing(str(inner.full_key))
    if isinstance(inner, (ConfigKeyError, ConfigAttributeError)):
        return _unknown_key(error, inner, verb, mend)
    if inner is not None:
        why = _first_line(str(inner.msg or inner))
        return LmmsteerError(f"{inner.full_key or inner.key}: {why}.", mend)
    return _other(error, verb, mend)


def _missing(key: str) -> LmmsteerError:
    """A key without a value; one of an experiment's grids lies in the folder of all data sets."""
    own = GRID.sub("", key)
    if own == key:
        return LmmsteerError(f"{key} has no value.", f"Give one: {key}=VALUE")
    what = f"The experiment wants {own}, which it looks for in the folder of all data sets."
    return LmmsteerError(what, "Name that folder: data=DIR (see docs/papers.md)")


def _omegaconf(error: BaseException | None) -> OmegaConfBaseException | None:
    while error is not None and not isinstance(error, OmegaConfBaseException):
        error = error.__cause__
    return error


def _unknown_key(
    error: Exception, inner: OmegaConfBaseException, verb: str, mend: str
) -> LmmsteerError:
    match = re.search(r"Could not override '([^']+)'", str(error))
    key = match.group(1) if match else str(inner.full_key or inner.key)
    known = list(inner.parent_node or []) if isinstance(inner.parent_node, DictConfig) else []
    return LmmsteerError(f"{key} is not a key of lmmsteer {verb}.", _hint(key, known) + mend)


def _other(error: Exception, verb: str, mend: str) -> LmmsteerError:
    text = _first_line(str(error))
    if match := re.search(r"Could not override '([^']+)'", text):
        return LmmsteerError(f"{match.group(1)} is not a key of lmmsteer {verb}.", mend)
    return LmmsteerError(f"{text}.", mend)


def _unknown_choice(error: MissingConfigException, mend: str) -> LmmsteerError:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    known = sorted(p.stem for p in (CONF / group).glob("*.yaml")) if group else []
    if not known:
        return LmmsteerError(f"{_first_line(str(error))}.", mend)
    hint = _hint(choice, known, f"{group}=")
    return LmmsteerError(f"{group}={choice} is unknown.", f"{hint}Known: {', '.join(known)}")


def _hint(word: str, known: list[str], prefix: str = "") -> str:
    close = get_close_matches(word.rpartition(".")[2], known, n=1)
    return f"Did you mean {prefix}{close[0]}? " if close else ""


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0].rstrip(".") if text.strip() else "no message"
