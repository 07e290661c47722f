"""What defines an output, as keys and values, and the gate that compares two of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lmmsteer.errors import LmmsteerError


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"sampling": {"top_k": 50}} as {"sampling.top_k": 50}; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def digest(values: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of a mapping: sorted keys, ASCII, no spaces."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """One line for each key whose values differ: `key: recorded -> asked`."""
    old, new = flatten(recorded), flatten(asked)
    keys = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    return [f"{k}: {_short(old.get(k))} -> {_short(new.get(k))}" for k in keys]


def refuse_if_different(
    where: str, recorded: Mapping[str, Any], asked: Mapping[str, Any], mend: str
) -> None:
    """Raise where `where` was made by another config, naming the keys."""
    different = differences(recorded, asked)
    if different:
        raise LmmsteerError(f"{where} was made with another config ({'; '.join(different)}).", mend)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
