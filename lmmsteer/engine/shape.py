"""How much the shared engine works on at a time, from the device's memory and the model's shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from lmmsteer.engine.attention import CHUNK
from lmmsteer.engine.blocked import copied_bytes
from lmmsteer.engine.sampling import Sampling
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request

CPU_SLOTS = 64  # Beyond, a processor's matrix products gain nothing.
CARD_SLOTS = 240  # Where weights and arithmetic take equally long (performance.md, section 2).
FEWEST = 4
WORKSPACE = 2 << 30  # Bytes for vision, prefill and kernels.
USABLE = (
    0.9  # Of the memory in all; not of what is free, so that a card's slots are always the same.
)
QUARTER = 0.25  # Of the memory in all: what may be taken for speed's sake (see `copied`, `spare`).
WIDTH = 16  # Rows of a lane where calls have fixed shapes.
PICTURE = (1024, 768)  # A photograph: four tiles for Llama-3.2-Vision.
SUFFIX = 128
SUFFIX_BUCKET = 32
WINDOW = 4  # Steps of an accelerator between two looks of the host.


@dataclass(frozen=True)
class Shape:
    """How much a run works on at a time.

    slots: rows that decode together. lanes: prefixes kept. width: rows of one lane (None: as many
    as there are). fixed: every decode step has one shape, whatever is free. chunk: keys at a time,
    for results that no companion's length can change (strict mode). window: steps between two looks
    of the host. one_by_one: a prefill call holds one prefix, or one suffix (strict mode, Gaudi).
    bucket: suffixes are padded to a multiple of so many tokens, prefixes' places to one of BUCKET,
    where every new shape is a new graph to compile (Gaudi; 1: they are not).
    """

    slots: int
    lanes: int
    width: int | None = None
    fixed: bool = False
    chunk: int | None = None
    window: int = 1
    one_by_one: bool = False
    bucket: int = 1


def shape_of(
    lmm: Lmm, slots: int, strict: bool, requests: Sequence[Request], streams: int = 1
) -> Shape:
    """The shape for so many slots. streams: of a row, its own among them.

    Strict: of the slots and the family alone, slots in sixteens.

    (Processors compute what is left over from whole vectors by other instructions, with other last
    bits; in sixteens nothing is left over, wherever a row stands.)
    """
    accelerator = lmm.device.kind != "cpu"
    window = WINDOW if accelerator else 1
    bucket = SUFFIX_BUCKET if lmm.device.kind == "hpu" else 1
    if strict:
        slots = -(-slots // WIDTH) * WIDTH
        lanes = fixed_lanes(lmm, slots)
        return Shape(slots, lanes, WIDTH, True, CHUNK, window, one_by_one=True, bucket=bucket)
    if lmm.device.kind == "hpu":
        lanes = fixed_lanes(lmm, slots)
        return Shape(slots, lanes, WIDTH, True, None, window, one_by_one=True, bucket=bucket)
    if accelerator:
        return Shape(slots, fixed_lanes(lmm, slots), WIDTH, True, window=window)
    shares = DECODING[lmm.family.name].shares_prompts
    prefixes = len({(r.image_id, "" if shares else r.prompt) for r in requests})
    rows = max(1, -(-len(requests) // max(1, prefixes)))  # of a prefix, on average
    lanes = min(2 * -(-slots // rows) + 2, max(1, len(requests)))
    return Shape(slots, lanes * streams)


def fixed_lanes(lmm: Lmm, slots: int) -> int:
    """Prefixes kept where calls have fixed shapes, whatever the rows turn out to be."""
    return slots // (4 if DECODING[lmm.family.name].shares_prompts else 2) + 2


def default_slots(lmm: Lmm, sampling: Sampling) -> tuple[int, str]:
    """As many slots as are of use and fit into memory, and the arithmetic in one sentence.

    bytes = weights + workspace + slots * own + lanes * prefix, own and prefix in tokens of
    2 * kv_heads * head_dim * layers numbers each; lanes as `fixed_lanes`; weights with those that
    are `copied`. The picture is one of PICTURE pixels and the prompt one of SUFFIX tokens, whatever
    a shard holds: all workers of a card come to the same number. Larger pictures take more than was
    counted.
    """
    total = lmm.device.memory()[1]
    weights = weight_bytes(lmm) + copied(lmm)
    token, cross_token = token_bytes(lmm)
    decoding = DECODING[lmm.family.name]
    picture = lmm.prepare(Image.new("RGB", PICTURE, (127, 127, 127)))
    prefix_tokens = decoding.split(lmm, lmm.token_ids("", picture.shown))
    prefix = prefix_tokens * token + decoding.valid(lmm, picture) * cross_token
    own = (SUFFIX + sampling.max_new_tokens) * token
    share = 1 / (4 if decoding.shares_prompts else 2)
    room = USABLE * total - weights - WORKSPACE - 2 * prefix
    fitting = int(room / (own + share * prefix)) if room > 0 else 0
    most = CPU_SLOTS if lmm.device.kind == "cpu" else CARD_SLOTS
    slots = max(FEWEST, min(most, fitting // WIDTH * WIDTH or fitting))
    sentence = (
        f"{slots} slots: {_size(total)} of memory x {USABLE} - {_size(weights)} of weights - "
        f"{_size(WORKSPACE)} of workspace - two prefixes = {_size(room)}; a slot takes "
        f"{_size(own)} and {share:.0%} of a prefix of {_size(prefix)}, so {fitting} fit, and more "
        f"than {most} are of no use"
    )
    return slots, sentence


def weight_bytes(lmm: Lmm) -> int:
    """Bytes of a model's parameters."""
    return sum(p.nbytes for p in lmm.model.parameters())


def copied(lmm: Lmm) -> int:
    """Bytes of the weights that are kept a second time as a processor's decode steps read them.

    0 where weights and copies would take more than a QUARTER of the memory, and on cards.
    """
    decoding = DECODING[lmm.family.name]
    copies = copied_bytes(decoding.decoder(lmm), decoding.head(lmm))
    return copies if weight_bytes(lmm) + copies <= QUARTER * lmm.device.memory()[1] else 0


def spare(lmm: Lmm) -> int:
    """Bytes of a QUARTER of a processor's memory that weights and their copies leave; on cards 0.

    Rows' own keys and values that fit into it may be taken at once, before they are needed.
    """
    if lmm.device.kind != "cpu":
        return 0
    return max(0, int(QUARTER * lmm.device.memory()[1]) - weight_bytes(lmm) - copied(lmm))


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


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if abs(size) >= 1e9 else f"{size / 1e6:.1f} MB"
