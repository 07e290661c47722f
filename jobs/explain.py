"""Hydra's and OmegaConf's errors as one sentence each."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from lmmsteer.errors import LmmsteerError

CONF = Path(__file__).resolve().parent.parent / "conf"


def sentence(error: Exception, verb: str) -> LmmsteerError:
    """What was wrong with the command line, and how to see what is right."""
    mend = f"See the keys and choices with: lmmsteer {verb} --help"
    text = " ".join(str(error).split())
    cause = error.__cause__
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error, mend)
    if isinstance(error, OverrideParseException):
        return LmmsteerError(f"{error.override} is no override: {text.partition(' See ')[0]}.", mend)
    if isinstance(error, MissingMandatoryValue):
        return LmmsteerError(f"{error.full_key} has no value.", f"Give one: {error.full_key}=VALUE")
    if isinstance(error, ConfigKeyError) or isinstance(cause, ConfigKeyError):
        key = _key_of(text)
        return LmmsteerError(f"{key} is not a key of lmmsteer {verb}.", mend)
    if isinstance(error, ConfigCompositionException) and isinstance(cause, OmegaConfBaseException):
        text = f"{text} ({' '.join(str(cause.msg or cause).split())})"
    return LmmsteerError(text.rstrip(".") + ".", mend)


def _unknown_choice(error: MissingConfigException, mend: str) -> LmmsteerError:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    known = sorted(p.stem for p in (CONF / group).glob("*.yaml")) if group else []
    if not known:
        return LmmsteerError(" ".join(str(error).split()), mend)
    close = get_close_matches(choice, known, n=1)
    hint = f"Did you mean {group}={close[0]}? " if close else ""
    return LmmsteerError(f"{group}={choice} is unknown.", f"{hint}Known: {', '.join(known)}")


def _key_of(text: str) -> str:
    match = re.search(r"Could not override '([^']+)'", text) or re.search(r"[Kk]ey '([^']+)'", text)
    return match.group(1) if match else text
