"""What a method is: a frozen dataclass of parameters that makes an Edit; some learn first.

A method never touches the model: engines apply its edit, and nothing of it stays behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

from lmmsteer.engine.edit import Edit
from lmmsteer.methods.artifact import Artifact
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request

Edited = Callable[[Lmm, Edit], AbstractContextManager[Any]]
"""An engine's `edited`: the model under an edit, for the length of a `with` block."""


@dataclass(frozen=True)
class Attribute:
    """A protected attribute: how to ask for it, and the words that mention it."""

    name: str
    question: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Context:
    """What a method's edit may rest on besides the rows: its attribute and its artifact."""

    attribute: Attribute | None = None
    artifact: Artifact | None = None


@dataclass(frozen=True)
class Method:
    """Parameters of a method; subclasses say what it changes.

    needs_attribute: it steers away from an attribute (others run as attribute=none).
    needs_artifact: its edit reads `context.artifact`. fitted: `fit` makes that artifact.
    """

    name: str = ""

    needs_attribute: ClassVar[bool] = False
    needs_artifact: ClassVar[bool] = False
    fitted: ClassVar[bool] = False

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        """What it changes for these rows, as data."""
        raise NotImplementedError

    def fit(
        self,
        lmm: Lmm,
        pictures: Mapping[str, Image.Image],
        attribute: Attribute,
        edited: Edited,
    ) -> Artifact:
        """What it learns about a model and an attribute from pictures (RGB, by image id)."""
        raise NotImplementedError(f"method={self.name} has nothing to fit")
