"""An LMM on this machine that answers questions in a given form: JSON of a schema, or a choice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

from PIL import Image

from lmmsteer import device
from lmmsteer.config import EngineConfig
from lmmsteer.engine.constrained import constraint
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.grammar import of_choices, of_schema
from lmmsteer.engine.sampling import Sampling
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import engines
from lmmsteer.models import files
from lmmsteer.models import lmm as models
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.families import family_of
from lmmsteer.models.lmm import Lmm
from lmmsteer.models.pictures import decode
from lmmsteer.schema import Request, Response

BLANK = "blank"


class Asked(Protocol):
    """A question. row_id: 32 hex digits, its noise's key; picture: a file's bytes, None for a
    question about a text alone."""

    @property
    def row_id(self) -> str: ...

    @property
    def prompt(self) -> str: ...

    @property
    def picture(self) -> bytes | None: ...


class LocalModel:
    """A model of a folder, or `demo`; its weights are loaded with the first question.

    key: how the config names the folder, for what is refused. Raises: LmmsteerError for a folder
    that is no model of a known family.
    """

    def __init__(self, path: str, key: str) -> None:
        try:
            self.folder = files.locate(path)
            files.check(self.folder)
            self.family = family_of(files.model_type(self.folder), "auto")
        except LmmsteerError as error:
            what, mend = (text.replace("model.path", key) for text in (error.what, error.mend))
            raise LmmsteerError(what, mend) from error
        self.digest = files.digest(self.folder)
        self.name = f"{self.folder.resolve().name}@{self.digest[:16]}"
        self._engine = engines.open_engine(EngineConfig())

    @cached_property
    def lmm(self) -> Lmm:
        return models.load(
            name=self.name,
            path=str(self.folder),
            device=device.detect("auto"),
            digest=self.digest,
        )

    def answer(
        self,
        asked: Sequence[Asked],
        schema: Mapping[str, Any] | None,
        choices: Sequence[str],
        temperature: float,
        tokens: int,
    ) -> list[tuple[Response, int]]:
        """A response to each question, and the tokens of its prompt. All have a picture, or none.

        schema: JSON of it is answered; choices: one of them, where there is no schema. tokens: the
        most of an answer; near them its form is closed, so that it is always whole.
        Raises: LmmsteerError for a form that the tokenizer cannot write in so many tokens, or
        questions about texts alone where the family says nothing without a picture.
        """
        blind = all(one.picture is None for one in asked)
        if blind and not DECODING[self.family.name].contrasts:
            raise LmmsteerError(
                f"{self.family.name} models say nothing without a picture, so {self.name} cannot"
                " judge texts.",
                "Use a model of another family.",
            )
        if schema is None:  # A token writes a byte or more; a space before, the end behind.
            tokens = min(tokens, 2 + max(len(choice.encode()) for choice in choices))
        form = of_choices(choices) if schema is None else of_schema(schema)
        rule = constraint(self.lmm, form, tokens)
        pictures = {_id(one): _picture(one) for one in asked}
        lengths = self._prompt_tokens(asked, pictures, blind)
        whole = [at for at, length in enumerate(lengths) if length + tokens <= self.most]
        edit = Edit(rules=(rule,), blind=blind)
        sampling = Sampling(temperature, top_k=0, top_p=1.0, max_new_tokens=tokens)
        requests = [Request(one.row_id, _id(one), "question", one.prompt, 0) for one in asked]
        kept = [requests[at] for at in whole]
        answers = iter(self._engine.generate(self.lmm, kept, pictures, edit, sampling))
        return [
            (next(answers) if at in whole else self._too_long(request, lengths[at]), lengths[at])
            for at, request in enumerate(requests)
        ]

    @property
    def most(self) -> int:
        """Tokens of a prompt and its answer that the model has positions for."""
        config = self.lmm.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or 1 << 30)

    def _too_long(self, request: Request, length: int) -> Response:
        what = f"{length} tokens of prompt and those of the answer are more than {self.most}"
        return Response.failed(request, "too_long", what)

    def _prompt_tokens(
        self, asked: Sequence[Asked], pictures: Mapping[str, Image.Image], blind: bool
    ) -> list[int]:
        shown = {} if blind else pictures
        taken = {name: self.lmm.prepare(picture).shown for name, picture in shown.items()}
        ids = [
            self.lmm.token_ids(one.prompt, taken.get(_id(one), self.lmm.image_token))
            for one in asked
        ]
        return [len(self.lmm.without_picture(i, "removed") if blind else i) for i in ids]


def _id(asked: Asked) -> str:
    return BLANK if asked.picture is None else hashlib.sha256(asked.picture).hexdigest()


def _picture(asked: Asked) -> Image.Image:
    if asked.picture is None:
        return Image.new("RGB", (64, 64), (127, 127, 127))
    return decode(asked.picture)
