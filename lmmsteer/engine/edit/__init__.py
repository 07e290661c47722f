"""What a method changes in a generation, as data. Methods make it, engines apply it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmmsteer.engine.edit.features import FeatureChain, FeatureEdit, FeatureRule
from lmmsteer.engine.edit.logits import (
    Adjustment,
    Bias,
    Contrast,
    Draw,
    Phrases,
    Reader,
    Rule,
)
from lmmsteer.engine.edit.residual import (
    EVERYWHERE,
    SCOPES,
    ResidualEdit,
    check_scope,
    touches_of,
)

__all__ = [
    "EVERYWHERE",
    "SCOPES",
    "Adjustment",
    "Bias",
    "Contrast",
    "Draw",
    "Edit",
    "FeatureChain",
    "FeatureEdit",
    "FeatureRule",
    "Phrases",
    "Reader",
    "ResidualEdit",
    "Rule",
    "check_rows",
    "check_scope",
    "touches_of",
]


@dataclass(frozen=True)
class Edit:
    """Everything a method changes; the empty edit leaves the model as it is.

    prompts: the prompt to show for each request, in the requests' order (None: as they are).
    residual: what is done to the decoder's residual stream (None: nothing).
    features: what is done to the picture's projected features.
    contrast: streams whose logits are held against a row's.
    rules: what is done to the logits then, one after the other.
    blind: rows are shown their prompts alone; the picture and its place in the prompt are left out.
    """

    prompts: tuple[str, ...] | None = None
    residual: ResidualEdit | None = None
    features: FeatureRule | None = None
    contrast: Contrast | None = None
    rules: tuple[Rule, ...] = ()
    blind: bool = False

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams of a row beside its own."""
        return () if self.contrast is None else self.contrast.streams

    def set_of(self, row: int) -> int:
        """The set of directions that a request uses."""
        return self.residual.set_of(row) if self.residual is not None else 0

    def set_count(self) -> int:
        return 1 if self.residual is None else len(self.residual.sets)


def check_rows(edit: Edit, requests: Sequence[object]) -> None:
    """Refuse an edit whose per-row data is not for these rows.

    Raises: ValueError, since this is a method's mistake and never a user's.
    """
    of = edit.residual.of if edit.residual is not None else None
    targets = [("rules", rule.rows) for rule in edit.rules]
    for name, given in (("prompts", edit.prompts), ("residual.of", of), *targets):
        if given is not None and len(given) != len(requests):
            raise ValueError(f"Edit.{name} has {len(given)} entries for {len(requests)} rows")
