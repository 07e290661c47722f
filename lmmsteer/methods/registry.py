"""Methods by their names, for methods that are made of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.base import Method

METHODS: dict[str, type[Method]] = {}


def class_of(given: Any) -> type[Method]:
    """The class of a method named, or described by `name` (or `uses`) and parameters.

    Raises: LmmsteerError for a name that is none.
    """
    name = str(given.get("uses") or given.get("name")) if isinstance(given, Mapping) else str(given)
    for known in (name, name.partition("_")[0]):  # A preset is named after its method: ala_n.
        if known in METHODS:
            return METHODS[known]
    raise LmmsteerError(
        f"method={name} is unknown.", f"Known methods: {', '.join(sorted(METHODS))}"
    )
