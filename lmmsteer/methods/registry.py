"""Methods by their names, for methods that are made of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
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


def takes_attribute(given: Any) -> bool:
    """Whether a part needs an attribute and brings none."""
    kind = class_of(given)
    if not isinstance(given, Mapping):
        return bool(kind().needs_attribute)
    if given.get("attribute"):
        return False
    named = {field.name for field in fields(kind)}
    made = kind(**{key: value for key, value in given.items() if key in named})
    return bool(made.needs_attribute) and not made.attribute_given
