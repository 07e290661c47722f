"""What a method is: a frozen dataclass of parameters that makes an Edit; some learn first.

A method never touches the model: engines apply its edit, and nothing of it stays behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from PIL import Image
from torch import Tensor

from lmmsteer import __version__
from lmmsteer.engine.edit import Edit
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.artifact import Artifact, ModelFacts
from lmmsteer.methods.passes import Passes
from lmmsteer.models.lmm import Lmm, PreparedPicture
from lmmsteer.schema import Request, Response

Edited = Callable[[Lmm, Edit], AbstractContextManager[Any]]
"""An engine's `edited`: the model under an edit, for the length of a `with` block."""


Features = Callable[[Lmm, Sequence[PreparedPicture]], list[Tensor]]
"""The picture as the decoder reads it, [tokens, d_model] each; perhaps from a cache."""


class Answering(Protocol):
    """An engine's `generate`; temperature 0 is greedy, more samples from the whole vocabulary."""

    def __call__(
        self,
        lmm: Lmm,
        requests: Sequence[Request],
        pictures: Mapping[str, Image.Image],
        edit: Edit,
        max_new_tokens: int,
        temperature: float = 0.0,
    ) -> Iterator[Response]: ...


@dataclass(frozen=True)
class Attribute:
    """A protected attribute: how to ask for it, and the words that mention it."""

    name: str
    question: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Context:
    """What a method's edit may rest on besides the rows.

    artifact: what its fit has learned. parts: of a method made of others, each with its context.
    pictures: RGB, by image id, decoded when they
    are asked for. features: vision features of prepared pictures, from the engine's cache.
    alone: nothing computed for one picture may hang on which others there are, in no bit.
    """

    attribute: Attribute | None = None
    artifact: Artifact | None = None
    parts: tuple[tuple[Method, Context], ...] = ()
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)
    features: Features | None = None
    alone: bool = False


@dataclass(frozen=True)
class Learning:
    """What a fit may learn from.

    pictures: RGB, by image id. labels: what the data set says of a picture's attribute (man, woman
    ...), by image id; a picture without a label is not in it. groups: the counterfactual set of a
    picture, likewise. edited, answer: the engine's. say: shows a line of progress. passes: for what
    takes long, so that a fit that was killed goes on where it was.
    """

    pictures: Mapping[str, Image.Image]
    attribute: Attribute
    edited: Edited
    answer: Answering
    labels: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    say: Callable[[str], None] = lambda line: None
    passes: Passes = field(default_factory=Passes)


@dataclass(frozen=True)
class Method:
    """Parameters of a method; subclasses say what it changes.

    needs_attribute: it steers away from an attribute (others run as attribute=none).
    needs_artifact: its edit reads `context.artifact`. fitted: `fit` makes that artifact. applied:
    parameters of a fitted method that act at generation, not through the artifact. sources: those
    that name files to learn from. elsewhere: how a user may come by an artifact of it.
    """

    name: str = ""

    needs_attribute: ClassVar[bool] = False
    needs_artifact: ClassVar[bool] = False
    elsewhere: ClassVar[str] = "Name a safetensors file that lmmsteer fit has made"
    fitted: ClassVar[bool] = False
    applied: ClassVar[frozenset[str]] = frozenset({"alpha"})
    sources: ClassVar[frozenset[str]] = frozenset()

    def origin(self, lmm: Lmm, attribute: Attribute) -> dict[str, Any]:
        """What every artifact says of where it is from."""
        return {
            "model": lmm.name,
            "model_digest": lmm.digest,
            "revision": lmm.revision,
            "attribute": attribute.name,
            "method": self.name,
            "version": __version__,
        }

    @property
    def touches(self) -> frozenset[str]:
        """What it changes besides prompts and logits: `residual`, `features`, `contrast`, so that
        a family without such a thing is refused before weights are loaded."""
        return frozenset()

    @property
    def members(self) -> Sequence[Any]:
        """The methods that it is made of: names, or mappings with `name` and parameters."""
        return ()

    def join(self, artifacts: Sequence[Artifact]) -> Artifact:
        """The one artifact that several files make.

        Raises: LmmsteerError where this method takes one.
        """
        if len(artifacts) != 1:
            raise LmmsteerError(
                f"method={self.name} takes one artifact, not {len(artifacts)}.",
                "Name one file: method.artifact=FILE",
            )
        return artifacts[0]

    @property
    def attribute_given(self) -> bool:
        """Whether its parameters say all that it would take from an attribute."""
        return False

    def suit(self, facts: ModelFacts) -> None:
        """Refuse parameters that this model cannot be given, before its weights are loaded.

        Raises: LmmsteerError that names the parameter.
        """

    def suit_fit(self, facts: ModelFacts) -> None:
        """The same for parameters of a fit, which an artifact from elsewhere does not ask about."""

    def check(self, artifact: Artifact, facts: ModelFacts, where: str = "The artifact") -> None:
        """Refuse an artifact that does not fit a model, before its weights are loaded.

        Raises: LmmsteerError that names `where` and what does not fit.
        """

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        """What it changes for these rows, as data."""
        raise NotImplementedError

    def fit(self, lmm: Lmm, learning: Learning) -> Artifact:
        """What it learns about a model and an attribute."""
        raise NotImplementedError(f"method={self.name} has nothing to fit")
