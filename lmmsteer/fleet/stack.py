"""What answers are computed with: another version or device may change their last bits."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

VERSIONS = ("torch", "transformers", "tokenizers", "numpy", "pillow", "pyarrow")


def versions() -> dict[str, str]:
    """The software of this process."""
    return {
        "lmmsteer": version("lmmsteer"),
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: version(name) for name in VERSIONS},
    }


def difference(planned: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Why a worker cannot join a run that was planned on another stack; None where it can."""
    keys = [key for key in sorted(found) if key in planned and planned[key] != found[key]]
    if not keys:
        return None
    named = ", ".join(f"{key} {found[key]}, not {planned[key]}" for key in keys)
    return f"its node has another stack than the run ({named})"
