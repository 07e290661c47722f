from dataclasses import dataclass, replace

import pytest

from lmmsteer.device import Device
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shape import copied, default_slots, fallbacks, shape_of, spare, token_bytes
from lmmsteer.schema import Request, row_id
from tests.tiny import photographs
from tests.tiny_families import tiny_family_lmm

SAMPLING = Sampling(max_new_tokens=100)


@dataclass(frozen=True)
class Memory(Device):
    """A device with so many bytes."""

    total: int = 0

    def memory(self):
        return (0, self.total)


def rows(pictures=2, prompts=("Is it day?", "What?"), seeds=3):
    return [
        Request(row_id(str(n), None, prompt, seed), str(n), prompt[:2], prompt, seed)
        for n in range(pictures)
        for prompt in prompts
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(
    ("name", "text", "cross"),
    [
        # 2 (keys and values) * heads of keys * width of a head * 4 bytes * layers.
        ("llava", 2 * 2 * 8 * 4 * 2, 0),
        ("qwen2_5_vl", 2 * 2 * 8 * 4 * 2, 0),
        ("mllama", 2 * 2 * 8 * 4 * 2, 2 * 2 * 8 * 4 * 1),  # Two layers of text, one of the picture.
        ("clipcap", 2 * 4 * 8 * 4 * 2, 0),  # GPT-2: a head of keys for each of queries.
        ("blip", 2 * 4 * 8 * 4 * 2, 2 * 4 * 8 * 4 * 2),  # Both kinds in each of two layers.
    ],
)
def test_bytes_of_a_token_are_those_of_its_keys_and_values_in_all_layers(name, text, cross):
    assert token_bytes(tiny_family_lmm(name)) == (text, cross)


def test_a_decoders_own_width_of_heads_counts():
    lmm = tiny_family_lmm("paligemma")
    assert token_bytes(lmm)[0] == 2 * 2 * 8 * 4 * 2
    text = lmm.model.config.get_text_config()
    before, text.head_dim = text.head_dim, 16
    try:
        assert token_bytes(lmm)[0] == 2 * 2 * 16 * 4 * 2
    finally:
        text.head_dim = before


def slots_of(name, total, kind="cpu"):
    lmm = tiny_family_lmm(name)
    return default_slots(replace(lmm, device=Memory(kind, total=total)), SAMPLING)


@pytest.mark.parametrize("name", ["llava", "mllama", "clipcap", "paligemma", "blip"])
def test_as_many_slots_as_memory_has_room_for_in_sixteens(name):
    """By hand: 0.9 of the memory less weights (those of wide layers twice), 2 GiB and two prefixes,
    by a slot's part.
    """
    lmm = tiny_family_lmm(name)
    token, cross = token_bytes(lmm)
    photograph = lmm.prepare(photographs()["astronaut"].resize((1024, 768)))
    ids = lmm.token_ids("", photograph.shown)
    # Tokens of the prefix; the picture's own keys; slots to a lane.
    placeholders = [at for at, token in enumerate(ids) if token == lmm.image_token_id]
    prefix, own_keys, shared = {
        "llava": (max(placeholders, default=0) + 1, 0, 4),
        # Four tiles of 480 pixels, each of 4 x 4 patches and one more.
        "mllama": (max(placeholders, default=0) + 1, 4 * 17, 4),
        "clipcap": (10, 0, 4),
        "paligemma": (len(ids), 0, 2),
        "blip": (1, 17, 4),  # 4 x 4 patches of 8 pixels and one more.
    }[name]
    lane = prefix * token + own_keys * cross
    each = (128 + 100) * token + lane / shared
    # The heads, by tokens they know; no other layer is wide enough, nor is blip's of 105 tokens.
    twice = 32 * 4 * {"paligemma": 1552, "blip": 0}.get(name, 400)
    weights = sum(p.nbytes for p in lmm.model.parameters()) + twice
    for fitting, wanted in ((5, 5), (17, 16), (40, 32)):
        total = int((weights + 2 * 2**30 + 2 * lane + (fitting + 0.5) * each) / 0.9)
        assert slots_of(name, total)[0] == wanted


def test_weights_are_kept_twice_where_that_takes_no_more_than_a_quarter_of_the_memory():
    lmm = tiny_family_lmm("llava")
    both = sum(p.nbytes for p in lmm.model.parameters()) + 400 * 32 * 4
    assert copied(replace(lmm, device=Memory("cpu", total=4 * both))) == 400 * 32 * 4
    assert copied(replace(lmm, device=Memory("cpu", total=4 * both - 4))) == 0


def test_what_may_be_taken_at_once_is_what_weights_and_copies_leave_of_the_quarter():
    lmm = tiny_family_lmm("llava")
    weights, copies = sum(p.nbytes for p in lmm.model.parameters()), 400 * 32 * 4
    for more, wanted in ((1000, 1000), (0, 0), (-4, copies - 4), (-copies - 4, 0)):
        total = 4 * (weights + copies + more)
        assert spare(replace(lmm, device=Memory("cpu", total=total))) == wanted
    assert spare(replace(lmm, device=Memory("cuda", total=2**40))) == 0


def test_slots_are_never_fewer_than_four_nor_more_than_are_of_use():
    assert slots_of("llava", 2**30)[0] == 4
    assert slots_of("llava", 2**40)[0] == 64
    slots, why = slots_of("llava", 2**40, "cuda")
    assert slots == 240
    assert why.startswith("240 slots: 1099.5 GB of memory x 0.9 - ")
    assert "25% of a prefix" in why


@pytest.mark.parametrize(("asked", "given"), [(1, 16), (16, 16), (17, 32), (240, 240)])
def test_strict_slots_come_in_sixteens_and_hang_on_nothing_else(asked, given):
    lmm = tiny_family_lmm("llava")
    shapes = {shape_of(lmm, asked, True, rows(n, seeds=n)) for n in (1, 2, 5)}
    assert len(shapes) == 1
    shape = shapes.pop()
    assert (shape.slots, shape.width, shape.fixed, shape.one_by_one) == (given, 16, True, True)
    assert shape.chunk is not None
    assert shape.window == 1
    # A lane for every four slots: a study's picture has 15 rows, so most of them wait filled.
    assert shape.lanes == given // 4 + 2


def test_families_whose_prompts_share_nothing_have_more_lanes():
    llava, paligemma = (tiny_family_lmm(name) for name in ("llava", "paligemma"))
    assert shape_of(paligemma, 16, True, rows()).lanes > shape_of(llava, 16, True, rows()).lanes
    assert shape_of(paligemma, 12, False, rows(9)).lanes == 2 * 4 + 2  # 3 seeds: 4 lanes, twice.
    assert shape_of(llava, 12, False, rows(9)).lanes == 2 * 2 + 2  # 6 rows: 2 lanes, twice.
    assert shape_of(llava, 12, False, rows(1, seeds=1)).lanes == 2  # No more than there are rows.


def test_an_accelerators_calls_have_one_shape_and_a_processors_have_not():
    lmm = tiny_family_lmm("llava")
    card = replace(lmm, device=Device("cuda"))
    shape = shape_of(card, 240, False, rows(64, seeds=8))
    assert (shape.slots, shape.fixed, shape.window, shape.chunk) == (240, True, 4, None)
    assert shape.lanes == 240 // 4 + 2
    assert shape.width == 16
    assert shape_of(card, 240, False, rows(1, seeds=20)) == shape  # Whatever a shard holds.
    plain = shape_of(lmm, 64, False, rows(64))
    assert (plain.fixed, plain.window, plain.width) == (False, 1, None)


@pytest.mark.parametrize(
    ("slots", "tried"), [(240, [240, 120, 60, 30, 15, 7]), (8, [8, 4]), (7, [7]), (1, [1])]
)
def test_where_memory_does_not_suffice_halves_are_tried_down_to_four(slots, tried):
    assert fallbacks(slots) == tried
