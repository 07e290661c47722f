"""Which parameters ALA can be given: presets, choices, ranges."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from lmmsteer.engine.edit.logits import GATES
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.ala_texts import check_classes
from lmmsteer.methods.attributions import AGGREGATES
from lmmsteer.models.lexicon import checked

if TYPE_CHECKING:
    from lmmsteer.methods.ala import Ala

PICTURE = "picture"
PRESETS = {"paper": (2.0, 0.1), "code": (5.0, 0.5)}
"""lam and tau: the paper's, and those of the public code's FACET scripts."""


def preset_values(method: Ala) -> dict[str, float]:
    """The lam and tau of a method's preset.

    Raises: LmmsteerError for one that is not known, or that another value is given beside.
    """
    if method.preset not in PRESETS:
        raise LmmsteerError(
            f"method.preset={method.preset} is not known.",
            f"Use method.preset={'|'.join(PRESETS)}",
        )
    lam, tau = PRESETS[method.preset]
    found = {"lam": lam, "tau": tau}
    defaults = {f.name: f.default for f in fields(method)}
    for key, value in found.items():
        given = getattr(method, key)
        if given not in (defaults[key], value):
            raise LmmsteerError(
                f"method.{key}={given} and method.preset={method.preset} ({key} {value}) "
                "contradict each other.",
                f"Leave one of them out: method.preset=null, or no method.{key}",
            )
    return found


def check_choices(method: Ala) -> None:
    """Raises: LmmsteerError for a choice that is not known, or one that another rules out."""
    known = {"gate": GATES, "classifier": ("fitted", "lexicon"), "beta_agg": AGGREGATES}
    for key, choices in known.items():
        if getattr(method, key) not in choices:
            raise LmmsteerError(
                f"method.{key}={getattr(method, key)} is not known.",
                f"Use method.{key}={'|'.join(choices)}",
            )
    if method.classifier == "lexicon":
        checked(method.lexicon or {})
    elif method.lexicon:
        raise LmmsteerError(
            "method.lexicon is given, and method.classifier=fitted does not read it.",
            "Use it with method.classifier=lexicon",
        )
    check_classes(method.classes)
    if method.classes is not None and len(method.classes) > 2 and method.classifier == "lexicon":
        raise LmmsteerError(
            f"A lexicon's scores tell two classes apart, and method.classes names "
            f"{len(method.classes)}.",
            "Name two, or use method.classifier=fitted",
        )


def check_numbers(method: Ala) -> None:
    """Raises: LmmsteerError for a number out of its range."""
    target = method.target
    number = isinstance(target, (int, float)) and not isinstance(target, bool)
    positive = ("images", "answer_tokens", "batch", "beta_steps", "beta_texts")
    rules = {
        "lam": (0 <= method.lam < float("inf"), "0 or more"),
        "tau": (0 <= method.tau <= 1, "between 0 and 1"),
        "target": (target == PICTURE or (number and -1 <= target <= 1), "picture, or from -1 to 1"),
        "lr": (method.lr is None or 0 < method.lr < float("inf"), "more than 0"),
        "epochs": (method.epochs is None or method.epochs >= 1, "1 or more"),
        "dropout": (0 <= method.dropout < 1, "0 or more, and less than 1"),
        **{key: (getattr(method, key) >= 1, "1 or more") for key in positive},
    }
    for key, (right, need) in rules.items():
        if not right:
            raise LmmsteerError(
                f"method.{key}={getattr(method, key)} is out of range.",
                f"Set method.{key} to {need}",
            )
