"""Rows on their way through an engine, and how generated tokens become a response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from lmmsteer.engine.edit import Edit, check_rows
from lmmsteer.errors import LmmsteerError
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm, PreparedPicture
from lmmsteer.schema import Request, Response


@dataclass(frozen=True, eq=False)
class Row:
    """One row: where it stands among the requests, and what the model is shown.

    limit: the most new tokens; forced: exactly so many, whatever the model would end with.
    """

    index: int
    request: Request
    prompt: str
    directions: int
    limit: int
    forced: bool = False


@dataclass(eq=False)
class Group:
    """Rows that share a prefix: one picture under one set of directions (and, where the family's
    mask wants it, one prompt). lane: where its prefix lies; left: rows without an answer yet.
    stream: which contrast stream of its rows this is, empty for the rows themselves; shadows: the
    groups of the streams beside them.
    """

    image_id: str
    directions: int
    rows: list[Row] = field(default_factory=list)
    lane: int = -1
    left: int = 0
    failed: bool = False
    stream: str = ""
    shadows: list[Group] = field(default_factory=list)

    @property
    def all(self) -> list[Group]:
        return [self, *self.shadows]


@dataclass(eq=False)
class Shown:
    """A group with what is computed for it on the way. blind: a stream without its picture."""

    group: Group
    picture: PreparedPicture
    prefix: tuple[int, ...]
    suffixes: dict[str, tuple[int, ...]]
    features: Tensor | None = None
    blind: bool = False


@dataclass(eq=False)
class Suffix:
    """One prompt behind one prefix: its logits, and where its keys and values are."""

    shown: Shown
    prompt: str
    ids: tuple[int, ...]
    logits: Tensor | None = None
    kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    index: int = 0


@dataclass(frozen=True, eq=False)
class Place:
    """What a slot begins with: a copy of a suffix's keys and values, behind a group's prefix.

    blind: of a contrast stream without its picture.
    """

    group: Group
    suffix: Suffix
    position: int
    blind: bool = False


@dataclass(eq=False)
class Ready:
    """A row with its first token; places: its own slot's, then those of its contrast streams."""

    row: Row
    token: int
    failed: bool
    places: list[Place]

    @property
    def group(self) -> Group:
        return self.places[0].group

    def ended(self, eos_ids: Sequence[int]) -> bool:
        """Whether the first token was the last."""
        ending = self.token in eos_ids and not self.row.forced
        return self.failed or self.row.limit <= 1 or ending


def refuse_unseeing(lmm: Lmm, edit: Edit) -> None:
    """Raises: LmmsteerError where an edit leaves the picture out and the family cannot."""
    if DECODING[lmm.family.name].contrasts or not (edit.blind or edit.streams):
        return
    cause = "so no stream without it can be held against a row"
    mend = "Use a method without a contrast stream"
    if edit.blind:
        cause, mend = "so none can be left out", "Show them a picture"
    raise LmmsteerError(f"{lmm.family.name} models say nothing without a picture, {cause}.", mend)


def plan_rows(
    lmm: Lmm,
    requests: Sequence[Request],
    edit: Edit,
    max_new_tokens: int,
    lengths: Sequence[int] | None = None,
) -> tuple[list[Row], dict[int, Response]]:
    """The rows that can be shown, and the responses of those that cannot.

    Raises: LmmsteerError for an edit of features that the family does not have.
    """
    check_rows(edit, requests)
    if edit.features is not None:
        lmm.projector  # noqa: B018 - it is asked for so that it may refuse
    prompts = edit.prompts or tuple(request.prompt for request in requests)
    rows, refused = [], {}
    refusals = {prompt: lmm.refusal(prompt) for prompt in dict.fromkeys(prompts)}
    for index, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
        if refusal := refusals[prompt]:
            refused[index] = Response.failed(request, "prompt_refused", refusal)
            continue
        limit = max_new_tokens if lengths is None else lengths[index]
        rows.append(Row(index, request, prompt, edit.set_of(index), limit, lengths is not None))
    return rows, refused


def grouped(
    rows: Sequence[Row],
    shares_prompts: bool,
    width: int | None = None,
    streams: Sequence[str] = (),
) -> list[Group]:
    """Rows by what they share, in the order in which each group first appears.

    width: the most rows of a group; where there are more, the next group begins. streams: the
    contrast streams that stand beside each group.
    """
    groups: list[Group] = []
    open_: dict[tuple[str, int, str], Group] = {}
    for row in rows:
        key = (row.request.image_id, row.directions, "" if shares_prompts else row.prompt)
        group = open_.get(key)
        if group is None or (width is not None and len(group.rows) >= width):
            group = open_[key] = Group(row.request.image_id, row.directions)
            groups.append(group)
        group.rows.append(row)
        group.left += 1
    for group in groups:
        group.shadows = [replace(group, stream=stream, shadows=[]) for stream in streams]
    return groups


def response(
    lmm: Lmm, request: Request, tokens: Sequence[int], failed_at: int | None, forced: bool = False
) -> Response:
    """What was generated, as the answer to a request. tokens may end with an end-of-sequence id.

    text is the decoded tokens without special ones, stripped of white space at both ends.
    failed_at: the step at which the row's logits were not finite, if they were not.
    """
    if failed_at is not None:
        return Response.failed(
            request, "nonfinite", f"the logits at step {failed_at} are not finite"
        )
    ended = not forced and bool(tokens) and tokens[-1] in lmm.eos_ids
    kept = list(tokens[:-1] if ended else tokens)
    text = lmm.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Response(
        row_id=request.row_id,
        image_id=request.image_id,
        prompt_id=request.prompt_id,
        seed=request.seed,
        text=text.strip(),
        token_ids=kept,
        new_tokens=len(kept),
        finish_reason="eos" if ended else "length",
    )
