"""How much the shared engine works on at a time, from the device's memory and the model's shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmmsteer.engine.attention import CHUNK
from lmmsteer.engine.sampling import Sampling
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm, PreparedPicture
from lmmsteer.schema import Request

CPU_SLOTS = 64  # Beyond, a processor's matrix products gain nothing.
CARD_SLOTS = 240  # Where weights and arithmetic take equally long (performance.md, section 2).
FEWEST = 4
WORKSPACE = 2 << 30  # Bytes for vision, prefill and kernels.
USABLE = (
    0.9  # Of the memory in all; not of what is free, so that a card's slots are always the same.
)
STRICT_WIDTH = 16
WINDOW = 4  # Steps of an accelerator between two looks of the host.


@dataclass(frozen=True)
class Shape:
    """How much a run works on at a time.

    slots: rows that decode together. lanes: prefixes kept. width: rows of one lane (None: as many
    as there are). fixed: every decode step has one shape, whatever is free. chunk: keys at a time,
    for results that no companion's length can change (strict mode). window: steps between two looks
    of the host. one_by_one: a prefill call holds one prefix, or one suffix (strict mode).
    """

    slots: int
    lanes: int
    width: int | None = None
    fixed: bool = False
    chunk: int | None = None
    window: int = 1
    one_by_one: bool = False


def shape_of(lmm: Lmm, slots: int, strict: bool, requests: Sequence[Request]) -> Shape:
    """The shape for so many slots. Strict: of the slots and the family alone, slots in sixteens.

    (Processors compute what is left over from whole vectors by other instructions, with other last
    bits; in sixteens nothing is left over, wherever a row stands.)
    """
    per_group = _rows_of_a_prefix(lmm, requests)
    accelerator = lmm.device.kind != "cpu"
    window = WINDOW if accelerator else 1
    if strict:
        slots = -(-slots // STRICT_WIDTH) * STRICT_WIDTH
        lanes = slots // (4 if DECODING[lmm.family.name].shares_prompts else 2) + 2
        return Shape(slots, lanes, STRICT_WIDTH, True, CHUNK, window, one_by_one=True)
    if accelerator:
        width = min(max(STRICT_WIDTH, per_group), slots)
        return Shape(slots, -(-slots // per_group) + 4, width, True, window=window)
    return Shape(slots, min(2 * -(-slots // per_group) + 2, max(1, len(requests))))


def _rows_of_a_prefix(lmm: Lmm, requests: Sequence[Request]) -> int:
    """How many rows share a prefix, on average."""
    shares = DECODING[lmm.family.name].shares_prompts
    keys = {(r.image_id, "" if shares else r.prompt) for r in requests}
    return max(1, -(-len(requests) // max(1, len(keys))))


def default_slots(
    lmm: Lmm, sampling: Sampling, requests: Sequence[Request], picture: PreparedPicture
) -> tuple[int, str]:
    """As many slots as are of use and fit into memory, and the arithmetic in one sentence.

    bytes = weights + workspace + slots * own + slots / rows * prefix, own and prefix in tokens of
    2 * kv_heads * head_dim * layers numbers each. picture: one of those to come; larger ones take
    more than was counted.
    """
    total = lmm.device.memory()[1]
    weights = sum(p.nbytes for p in lmm.model.parameters())
    token, cross_token = token_bytes(lmm)
    ids = lmm.token_ids(requests[0].prompt, picture.tokens)
    decoding = DECODING[lmm.family.name]
    prefix_tokens = decoding.split(lmm, ids)
    prefix = prefix_tokens * token
    prefix += decoding.valid(lmm, picture) * cross_token
    own = (len(ids) - prefix_tokens + sampling.max_new_tokens) * token
    rows = _rows_of_a_prefix(lmm, requests)
    room = USABLE * total - weights - WORKSPACE
    fitting = int(room / (own + prefix / rows)) if room > 0 else 0
    most = CPU_SLOTS if lmm.device.kind == "cpu" else CARD_SLOTS
    slots = max(FEWEST, min(most, fitting))
    sentence = (
        f"{slots} slots: {_gb(total)} of memory x {USABLE} - {_gb(weights)} of weights - "
        f"{_gb(WORKSPACE)} of workspace = {_gb(room)}; a slot takes {_gb(own)} and 1/{rows} of a "
        f"prefix of {_gb(prefix)}, so {fitting} fit, and more than {most} are of no use"
    )
    return slots, sentence


def token_bytes(lmm: Lmm) -> tuple[int, int]:
    """Bytes of keys and values of one text token, and of one token of the picture's own keys."""
    text = lmm.model.config.get_text_config()
    heads = int(text.num_attention_heads)
    kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    head_dim = int(getattr(text, "head_dim", None) or lmm.d_model // heads)
    crossed = len(DECODING[lmm.family.name].cross_layers(lmm))
    layers = lmm.n_layers if lmm.family.name == "blip" else lmm.n_layers - crossed
    each = 2 * kv_heads * head_dim * lmm.dtype.itemsize
    return each * layers, each * crossed


def fallbacks(slots: int) -> list[int]:
    """Slot counts to try where memory does not suffice: halves."""
    tried = [slots]
    while tried[-1] // 2 >= FEWEST:
        tried.append(tried[-1] // 2)
    return tried


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
