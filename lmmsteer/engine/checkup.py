"""Whether a loaded model is what its family's record says, tried out on the model itself.

Each check says in a sentence what it saw, or raises one that says what is wrong and what mends it.
They hold the record and the folder against transformers' own forward pass, not against our engines;
`check_answer` then holds an engine against that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from lmmsteer.device import Device
from lmmsteer.engine.edit import Edit, ResidualEdit
from lmmsteer.engine.hooks import PLACES, installed
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.trial import (
    RECORD,
    apart,
    engine_prefix,
    logits,
    prepared_for,
    recorded,
    steps,
    within,
)
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm, PreparedPicture, load
from lmmsteer.schema import Request, Response, row_id

QUESTION = "What is the person in the picture doing?"
TOKENS = 16
LOOKED_AT = 64  # Tokens of a prefix, first to last: enough to find one that sees what is behind.
# Share of a residual along a direction that is ablated: rounding leaves less.
LEFT = {torch.float32: 1e-2, torch.float16: 5e-2, torch.bfloat16: 1e-1}
# Rounding of calls of other shapes, |a - b| / |a| of residuals; none where shapes are the same.
APART = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
SAME = 1e-3
# How far below the likeliest an engine's token may stand: a share of that one's lead on the mean.
BELOW = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class Answers(Protocol):
    """An engine's `generate`."""

    def generate(
        self, lmm: Lmm, requests: Sequence[Request], pictures: Any, edit: Edit, sampling: Sampling
    ) -> Iterator[Response]: ...


def loaded(
    name: str, path: str, revision: str | None, dtype: str, family: str, device: Device
) -> Lmm:
    """The model, ready to be tried.

    Raises: LmmsteerError, RunFailed where folder, memory or transformers do not let it load.
    """
    mend = "Save model and processor again with transformers (save_pretrained), or name a hub id"
    with within(name, "Loading", mend):
        return load(name, path, revision, dtype, family, device)


def check_prompt(lmm: Lmm, picture: Image.Image) -> str:
    """The template has the picture's place once and the question once; the token is the model's.

    Raises: LmmsteerError naming the token or the template.
    """
    known = lmm.image_token_id
    config = lmm.model.config
    said = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    if lmm.image_token and said is not None and said != known:
        raise LmmsteerError(
            f"config.json says that the picture's token is {said}, but the tokenizer has "
            f"{lmm.image_token} as {known}.",
            f"Set image_token_id to {known} in config.json, or save the model's own tokenizer "
            "beside it (processor.save_pretrained(folder))",
        )
    mend = "Mend chat_template.jinja in the model's folder, or remove it to use the family's"
    with within(lmm.name, "The chat template", mend):
        text = lmm.render(QUESTION)
    template = "chat template" if getattr(lmm.processor, "chat_template", None) else "template"
    for what, count in (
        (f"place for the picture ({lmm.place})", text.count(lmm.place) if lmm.place else 1),
        ("place for the question", text.count(QUESTION)),
    ):
        if count != 1:
            raise LmmsteerError(
                f"The {template} of {lmm.name} has {count} times a {what}, not once.",
                mend,
            )
    prepared = prepared_for(lmm, picture)
    ids = lmm.token_ids(QUESTION, prepared.shown)
    bos = lmm.tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise LmmsteerError(
            f"A prompt of {lmm.name} begins with two {lmm.tokenizer.bos_token}.",
            "Take the token out of chat_template.jinja, or set add_bos_token to false",
        )
    if ids.count(known) != prepared.tokens:
        raise LmmsteerError(
            f"A prompt of {lmm.name} has {ids.count(known)} tokens {lmm.image_token} for a picture "
            f"of {prepared.tokens}.",
            RECORD,
        )
    place = f"{lmm.image_token} is token {known}" if lmm.image_token else "no place for a picture"
    return f"{len(ids)} tokens, {prepared.tokens} of them the picture's; {place}"


def check_picture(lmm: Lmm, picture: Image.Image) -> str:
    """As many features as placeholders, all finite; another picture gives other logits.

    Raises: LmmsteerError where the decoder would read something else than the picture.
    """
    prepared = prepared_for(lmm, picture)
    with torch.inference_mode(), within(lmm.name, "The vision tower"):
        features = DECODING[lmm.family.name].features(lmm, [prepared])[0]
    if lmm.family.picture_in_residual and len(features) != prepared.tokens:
        raise LmmsteerError(
            f"The picture has {len(features)} features and {prepared.tokens} places in the prompt.",
            "Save the processor that belongs to the model (processor.save_pretrained(folder))",
        )
    if not torch.isfinite(features).all():
        raise LmmsteerError(
            f"The vision tower of {lmm.name} gives values that are not finite.",
            "Use a wider model.dtype (model.dtype=float32), or fetch the weights again",
        )
    ids = lmm.token_ids(QUESTION, prepared.shown)
    seen, noise = (
        logits(lmm, ids, shown) for shown in (prepared, prepared.noise("another picture"))
    )
    if torch.equal(seen, noise):
        raise LmmsteerError(
            f"{lmm.name} says the same of another picture: the decoder does not read it.", RECORD
        )
    return f"{len(features)} features of width {features.shape[-1]}, and the logits hang on them"


def check_residual(lmm: Lmm, picture: Image.Image) -> str:
    """Every place of the residual stream is found, fires, and nothing is written past them.

    A direction of which the last block's output has much is ablated everywhere: then no block's
    output has any of it, |A r| / |r| <= LEFT.
    Raises: LmmsteerError, RunFailed naming the places that are missing.
    """
    if not lmm.family.pre_norm_residual:
        return f"{lmm.family.name} decoders have none to ablate, and such methods are refused"
    prepared = prepared_for(lmm, picture)
    ids = lmm.token_ids(QUESTION, prepared.shown)
    with recorded(lmm, [len(ids) - 1]) as before:
        logits(lmm, ids, prepared)
    last = before[-1][0]
    direction = (last.sign() / len(last) ** 0.5).unsqueeze(0)  # No outlier is all of it.
    edit = Edit(residual=ResidualEdit(direction))
    with installed(lmm, edit), recorded(lmm, [len(ids) - 1]) as after:
        logits(lmm, ids, prepared)
    shares = [float((block[0] @ direction[0]).abs() / block[0].norm()) for block in after]
    worst = max(range(len(shares)), key=shares.__getitem__)
    if shares[worst] > LEFT[lmm.dtype]:
        raise LmmsteerError(
            f"A direction that was ablated is still {shares[worst]:.0%} of what block {worst} of "
            f"{lmm.name} hands on: something else writes to the residual stream there.",
            RECORD,
        )
    whole = float((last @ direction[0]).abs() / last.norm())
    return (
        f"{PLACES * lmm.n_layers} places in {lmm.n_layers} blocks, every hook fired; a direction "
        f"that was {whole:.0%} of the last block's output is {max(shares):.1%} when ablated"
    )


def check_sharing(lmm: Lmm, picture: Image.Image) -> str:
    """What rows are said to share is the same whatever stands behind it.

    The prefix alone against the prefix in a whole row, up to rounding (its calls are of other
    shapes); the row against one of the same length with other tokens behind: not a bit; and the
    prefix as the shared engine computes it against both.
    Raises: LmmsteerError with the block where they part.
    """
    prepared = prepared_for(lmm, picture)
    ids = lmm.token_ids(QUESTION, prepared.shown)
    count = DECODING[lmm.family.name].split(lmm, ids)
    prefix, behind = ids[:count], ids[count:]
    at = sorted({*range(0, count, -(-count // LOOKED_AT)), count - 1})
    whole = _blocks(lmm, ids, prepared, at)
    said = [f"{count} of {len(ids)} tokens"]
    if behind:  # Else the whole prompt is shared, by its seeds.
        alone = apart(whole, _blocks(lmm, prefix, prepared, at))
        other = apart(whole, _blocks(lmm, [*prefix, *behind[1:], behind[0]], prepared, at))
        leak = "is said to be shared, but {} of it hangs on what stands behind"
        mend = (
            f"engine=reference shares nothing; the {lmm.family.name} line of "
            "lmmsteer/models/decoding must say what the decoder's mask does"
        )
        _near(other, SAME, lmm, count, leak, mend)
        _near(alone, APART[lmm.dtype], lmm, count, leak, mend)
        said.append(f"alone and before a prompt {max(alone):.1e} apart")
        said.append(f"before another {max(other):.1e}")
    if lmm.device.kind != "hpu":  # Nothing is shared there.
        ours = apart(whole, engine_prefix(lmm, prefix, prepared, at))
        wrong = "is shared, but {} of it is another in engine=shared than in the model"
        mend = f"Use engine=reference; mend the {lmm.family.name} line of lmmsteer/models/decoding"
        _near(ours, APART[lmm.dtype], lmm, count, wrong, mend)
        said.append(f"in engine=shared {max(ours):.1e}")
    return ", ".join(said)


def _blocks(
    lmm: Lmm, ids: Sequence[int], picture: PreparedPicture, at: Sequence[int]
) -> list[Tensor]:
    with recorded(lmm, at) as blocks:
        logits(lmm, ids, picture)
    return blocks


def _near(found: list[float], most: float, lmm: Lmm, count: int, what: str, mend: str) -> None:
    worst = max(range(len(found)), key=found.__getitem__)
    if found[worst] > most:
        raise LmmsteerError(
            f"The beginning of a row of {lmm.name} ({count} tokens) "
            f"{what.format(f'the output of block {worst}')} ({found[worst]:.1%} apart).",
            mend,
        )


def check_answer(lmm: Lmm, picture: Image.Image, engine: Answers) -> str:
    """One picture is answered, and each token is the one that the model itself would say.

    Raises: LmmsteerError, RunFailed where the row failed or a token is another's choice.
    """
    asked = Request(row_id("doctor", None, QUESTION, 0), "doctor", "question", QUESTION, 0)
    greedy = Sampling(temperature=0, max_new_tokens=TOKENS)
    with within(lmm.name, "The engine's run"):
        answer = next(iter(engine.generate(lmm, [asked], {"doctor": picture}, Edit(), greedy)))
    if answer.error or answer.token_ids is None:
        raise RunFailed(f"The picture was not answered: {answer.error}.", RECORD)
    said, prepared = answer.token_ids, prepared_for(lmm, picture)
    ids = lmm.token_ids(QUESTION, prepared.shown)
    likely = steps(lmm, ids, prepared, said)
    taken = [z[token] for z, token in zip(likely, said, strict=False)]
    if answer.finish_reason == "eos":
        taken.append(likely[-1][list(lmm.eos_ids)].max())
    pairs = zip(likely, taken, strict=False)
    gap = [float((z.max() - one) / (z.max() - z.mean())) for z, one in pairs]
    if max(gap) > BELOW[lmm.dtype]:
        step = max(range(len(gap)), key=gap.__getitem__)
        raise LmmsteerError(
            f"The engine's token {step + 1} is not the one that transformers' own generate "
            f"finds likeliest ({gap[step]:.0%} below it).",
            "Use engine=reference, and mend the family's line in lmmsteer/models/decoding",
        )
    return f"{(answer.text or '')[:60]!r}, {len(gap)} tokens, each the model's own choice"
