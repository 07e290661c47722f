import mmap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmsteer.engine import pages
from lmmsteer.engine.store import Lanes, Own, Passing
from tests.resident import resident, told

CPU = torch.device("cpu")


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def own(slots, block=None, by_token=False):
    made = Own(slots, CPU, block)
    made.by_token = by_token  # As a card's kernel wants it; it must not matter to what is held.
    return made


def test_a_passing_cache_hands_back_the_very_tensors_it_is_given():
    cache = Passing(3, torch.zeros(1, 1, 1, 1))
    key, value = drawn(1, 2, 1, 4, 8), drawn(2, 2, 1, 4, 8)
    assert all(a is b for a, b in zip(cache.update(key, value, 1), (key, value), strict=True))
    assert len(cache) == 3
    assert not any(layer.keys.any() for layer in cache.layers)


@pytest.mark.parametrize("block", [None, 4])
def test_lanes_hold_what_was_written_last_and_mask_the_rest(block):
    lanes = Lanes(3, CPU, block)
    for seed, (into, tokens) in enumerate([([0, 2], 5), ([1], 3), ([0], 9), ([2], 2)]):
        key, value = drawn(seed, len(into), 2, tokens, 4), drawn(9 + seed, len(into), 2, tokens, 4)
        lanes.set_lengths(into, tokens)
        lanes.write(0, into, key, value)
    assert lanes.room() == (9 if block is None else 12)
    assert lanes.lengths.tolist() == [9, 3, 2]
    assert lanes.longest([1, 2]) == 3
    keys, values = lanes.kept[0]
    assert torch.equal(keys[0, :, :9], drawn(2, 1, 2, 9, 4)[0])
    assert torch.equal(values[1, :, :3], drawn(10, 1, 2, 3, 4)[0])
    assert torch.equal(values[2, :, :2], drawn(12, 1, 2, 2, 4)[0])
    seen = lanes.bias(0, slice(0, 3), 9)[:, 0, 0].isfinite().sum(-1)
    assert seen.tolist() == [9, 3, 2]


def test_lanes_of_one_length_need_no_mask_unless_calls_have_one_shape():
    for block, needed in ((None, False), (4, True)):
        lanes = Lanes(3, CPU, block)
        lanes.set_lengths([0, 2], 5)
        lanes.write(0, [0, 2], *[drawn(1, 2, 1, 5, 4)] * 2)
        assert (lanes.bias(0, slice(0, 3), 5) is not None) is needed
        lanes.set_lengths([1], 4)
        assert lanes.bias(0, slice(0, 3), 5) is not None
        assert (lanes.bias(0, slice(2, 3), 5) is not None) is needed
        assert (lanes.bias(0, torch.tensor([0, 2]), 5) is not None) is needed


def test_lanes_that_stand_together_are_picked_without_a_copy():
    lanes = Lanes(5, CPU)
    assert lanes.pick([1, 2, 3]) == slice(1, 4)
    assert lanes.pick([4]) == slice(4, 5)
    assert lanes.pick([0, 2]).tolist() == [0, 2]


def test_a_moved_lane_is_there_with_its_lengths_and_a_cleared_one_is_zero():
    lanes = Lanes(3, CPU)
    lanes.set_lengths([2], 5)
    lanes.write(0, [2], *[drawn(1, 1, 2, 5, 4)] * 2)
    lanes.write(7, [2], *[drawn(2, 1, 2, 6, 4)] * 2)
    lanes.cross[7] = torch.tensor([1, 1, 4])
    lanes.move(2, 0)
    assert lanes.lengths.tolist() == [5, 1, 5]
    assert lanes.longest([0]) == 5
    assert lanes.cross[7].tolist() == [4, 1, 4]
    for layer in (0, 7):
        assert torch.equal(lanes.kept[layer][1][0], lanes.kept[layer][1][2])
    lanes.kept[0][0][2] = torch.nan
    lanes.clear(2)
    assert not any(store[2].any() for pair in lanes.kept.values() for store in pair)
    assert lanes.kept[0][0][0].any()


def test_lanes_say_when_their_memory_has_moved_in_any_layer():
    lanes = Lanes(2, CPU)
    for layer in (0, 5):
        lanes.write(layer, [0], *[drawn(1, 1, 1, 5, 4)] * 2)
    assert lanes.moved
    lanes.moved = False
    lanes.write(0, [1], *[drawn(1, 1, 1, 4, 4)] * 2)
    assert not lanes.moved
    lanes.write(5, [1], *[drawn(1, 1, 1, 6, 4)] * 2)
    assert lanes.moved


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from([None, 4, 128]),
    st.lists(st.sampled_from(["put", "append", "move", "append"]), min_size=3, max_size=25),
)
def test_slots_hold_their_rows_tokens_whatever_was_put_appended_and_moved(
    seed, by_token, block, steps
):
    """Against a plain list of tokens for each slot."""
    generator = torch.Generator().manual_seed(seed)
    store, slots = own(4, block, by_token), 4
    expected = [torch.zeros(2, 0, 3)] * slots

    def number(limit):
        return int(torch.randint(0, limit, (), generator=generator))

    for step, kind in enumerate(steps):
        if kind == "put":
            into = [number(4)]
            into += [at for at in (number(4),) if at not in into]
            lengths = [1 + number(9) for _ in into]
            rows = [number(3) for _ in into]
            key = drawn(seed + step, 3, 2, 9, 3)
            store.ensure(9)
            store.put(into, {0: (key, -key)}, rows, lengths)
            for slot, row, length in zip(into, rows, lengths, strict=True):
                expected[slot] = key[row, :, :length]
        elif kind == "append":
            longest = max(part.shape[1] for part in expected)
            store.ensure(longest + 1)
            store.reach(longest + 1, exact=block is None)
            key = drawn(seed + step, slots, 2, 1, 3)
            store.append(0, key, -key)
            store.lengths += 1
            expected = [torch.cat([part, new], 1) for part, new in zip(expected, key, strict=True)]
        elif 0 in store.kept:
            source, to = number(4), number(4)
            store.move(source, to, expected[source].shape[1])
            expected[to] = expected[source]
    if 0 not in store.kept:
        return
    assert store.lengths.tolist() == [part.shape[1] for part in expected]
    for slot, part in enumerate(expected):
        for sign, held in zip((1, -1), store.kept[0], strict=True):
            assert torch.equal(held[slot, :, : part.shape[1]], sign * part)


def test_room_doubles_up_to_what_the_longest_row_may_need():
    store = own(2)
    store.ensure(300)
    rooms = []
    for tokens in (1, 64, 65, 129, 257, 300):
        store.reach(tokens)
        rooms.append(store.room)
    # Steps of 64: 64, 128, 256, then not 512 but 300 rounded up to 320.
    assert rooms == [64, 64, 128, 256, 320, 320]


def test_a_card_takes_all_the_room_at_once_and_keeps_tokens_together():
    store = own(2, by_token=True)
    store.ensure(100)
    assert store.room == 128
    key = drawn(1, 2, 3, 1, 4)
    store.reach(1)
    store.append(0, key, key)
    assert store.kept[0][0].shape == (2, 3, 128, 4)
    assert store.kept[0][0].transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("by_token", [False, True])
def test_memory_that_moved_is_reported_once_even_if_a_suffix_moved_it(by_token):
    store = own(2, 4, by_token)
    store.ensure(4)
    store.put([0], {0: (drawn(1, 1, 1, 4, 2), drawn(2, 1, 1, 4, 2))}, [0], [3])
    assert store.reach(4)
    assert not store.reach(4)
    before = store.kept[0][0].data_ptr()
    store.ensure(16)
    store.put([1], {0: (drawn(1, 1, 1, 9, 2), drawn(2, 1, 1, 9, 2))}, [0], [9])
    assert store.kept[0][0].data_ptr() != before
    assert store.reach(9)
    assert not store.reach(9)


def test_fixed_reads_go_to_the_end_of_the_block():
    store = own(2, 128)
    store.ensure(300)
    store.reach(130, exact=False)
    assert store.longest == 256
    store.reach(130)
    assert store.longest == 130


def test_a_cleared_slot_is_zero_and_its_neighbour_is_not():
    store = own(2)
    store.put([0, 1], {0: (drawn(1, 2, 1, 4, 2) * torch.nan, drawn(2, 2, 1, 4, 2))}, [0, 1], [4, 4])
    store.clear(0)
    assert not store.kept[0][0][0].any()
    assert store.kept[0][1][1].any()


@told
@pytest.mark.parametrize(
    ("heads", "large", "whole"), [(3, 1 << 40, False), (12, 1 << 40, True), (12, 0, False)]
)
def test_reserved_memory_is_taken_where_tokens_are_written_alone(heads, large, whole):
    """By the page; by the slot where one fills large pages and there is memory for them."""
    made = Own(64, CPU, packed=True, large=large)
    made.ensure(1024)
    before = resident()
    for _ in range(20):
        made.reach(1)
        made.append(0, *(torch.ones(8, heads, 1, 64) for _ in range(2)))
    taken = resident() - before
    key, value = made.kept[0]
    slot = (key.nbytes + value.nbytes) / 64
    assert taken < (8 * slot + (8 << 20) if whole else 2 * slot)
    assert not key[:8, :, 1:].any()


@pytest.mark.parametrize(("spare", "wanted"), [(0, True), (-1, False)])
def test_slots_are_in_large_pages_up_to_the_bytes_that_a_layer_may_take(monkeypatch, spare, wanted):
    asked, real = [], pages.zeros

    def watched(*args, large):
        asked.append(large)
        return real(*args, large=large)

    monkeypatch.setattr(pages, "zeros", watched)
    made = Own(4, CPU, packed=True, large=4 * 12 * 1024 * 64 * 4 + spare)
    made.ensure(1024)
    made.append(0, *(torch.ones(4, 12, 1, 64) for _ in range(2)))
    assert asked == [wanted, wanted]


@pytest.mark.parametrize("stepped", [False, True])
def test_reserved_memory_that_must_be_larger_keeps_the_rows_in_use(stepped):
    made = Own(4, CPU, packed=True)
    made.ensure(10)
    made.put([0, 1, 3], {0: (drawn(1, 3, 2, 7, 4), drawn(2, 3, 2, 7, 4))}, [0, 1, 2], [7, 5, 7])
    if stepped:
        made.reach(9)
    before = [store[:4, :, :9].clone() for store in made.kept[0]]
    made.used = 4
    made.ensure(100)
    assert made.kept[0][0].shape == (4, 2, 128, 4)
    for old, new in zip(before, made.kept[0], strict=True):
        assert torch.equal(new[:, :, :9], old)
        assert not new[:, :, 9:].any()


@pytest.mark.parametrize("room", [60, 200])
def test_looking_ahead_makes_memory_real_and_changes_no_token(room):
    """Rows of other lengths than each other's, one of them up to the last token of its room."""
    width, heads, lengths = 64, 3, [0, 17, 40]
    made, plain = Own(4, CPU, packed=True), Own(4, CPU)
    for one in (made, plain):
        one.ensure(room)
        one.reach(1)
        one.append(0, *(torch.ones(3, heads, 1, width) for _ in range(2)))
        one.lengths[:3] = torch.tensor(lengths)
    ended = made.kept[0][0].shape[2]
    for step in range(ended - max(lengths)):
        new = [drawn(seed, 3, heads, 1, width) for seed in (2 * step, 2 * step + 1)]
        for one in (made, plain):
            one.reach(max(lengths) + step + 1)
            one.look_ahead(3)
            one.append(0, *new)
            one.lengths[:3] += 1
    for ours, theirs in zip(made.kept[0], plain.kept[0], strict=True):
        assert torch.equal(ours[:3, :, : theirs.shape[2]], theirs[:3])
        assert ours[0].any()


@told
def test_looking_ahead_reaches_every_page_of_the_next_tokens_and_few_others():
    heads = 3  # Of a slot that is too small for large pages.
    made = Own(64, CPU, packed=True)
    made.ensure(1024)
    made.reach(1)
    made.append(0, *(torch.ones(32, heads, 1, 64) for _ in range(2)))
    before = resident()
    made.look_ahead(32)
    taken = resident() - before
    # 32 rows x 3 heads x 2: 32 tokens of 256 bytes lie in two or three pages, one of them real.
    pages = 32 * heads * 2 * mmap.PAGESIZE
    assert 0.9 * pages < taken < 3 * pages
    before = resident()
    for _ in range(32 - 1):
        made.lengths[:32] += 1
        made.reach(40)
        made.look_ahead(32)
        made.append(0, *(torch.ones(32, heads, 1, 64) for _ in range(2)))
    assert resident() - before < 0.5 * pages


def test_clearing_a_reserved_slot_leaves_nothing_that_is_not_finite():
    made = Own(2, CPU, packed=True)
    made.ensure(64)
    made.reach(3)
    made.append(0, *(torch.full((2, 2, 1, 4), torch.nan) for _ in range(2)))
    made.clear(1)
    assert made.kept[0][0][0].isnan().any()
    assert not made.kept[0][0][1].isnan().any()


def test_memory_that_cannot_be_reserved_is_memory_that_does_not_suffice(monkeypatch):
    def refuse(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    made = Own(2, CPU, packed=True)
    made.ensure(64)
    with pytest.raises(torch.OutOfMemoryError, match="Cannot allocate memory"):
        made.append(0, *(torch.ones(2, 2, 1, 4) for _ in range(2)))
