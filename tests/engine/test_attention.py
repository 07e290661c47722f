import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmsteer.engine import attention
from lmmsteer.engine.attention import (
    Groups,
    capped,
    causal_bias,
    fold,
    half,
    length_bias,
    merge,
    working,
)
from lmmsteer.errors import LmmsteerError

seeds = st.integers(0, 10**6)


def drawn(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def softmax_attention(query, key, value, mask=None):
    """query: [rows, heads, tokens, d], scaled; key, value: [rows, kv_heads, keys, d], by hand."""
    per = query.shape[1] // key.shape[1]
    key, value = (x.double().repeat_interleave(per, 1) for x in (key, value))
    scores = query.double() @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ value).float()


@settings(deadline=None, max_examples=50)
@given(seeds, st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
def test_two_halves_merged_are_the_attention_over_all_keys(seed, first, second, queries):
    q, k, v = drawn(seed, (2, 3, queries, 8), *[(2, 3, first + second, 8)] * 2)
    out, lse = half(q, k[:, :, :first], v[:, :, :first], None)
    other, other_lse = half(q, k[:, :, first:], v[:, :, first:], None)
    assert torch.allclose(merge(out, lse, other, other_lse), softmax_attention(q, k, v), atol=1e-5)
    assert torch.allclose(
        torch.logaddexp(lse, other_lse).squeeze(-1), (q @ k.mT).logsumexp(-1), atol=1e-4
    )


def test_halves_merge_rightly_where_one_outweighs_the_other_beyond_float32():
    q = torch.full((1, 1, 1, 1), 1.0)
    near, far = torch.full((1, 1, 1, 1), 300.0), torch.full((1, 1, 1, 1), -300.0)
    one, two = torch.full((1, 1, 1, 1), 5.0), torch.full((1, 1, 1, 1), 7.0)
    a, b = half(q, near, one, None), half(q, far, two, None)
    assert merge(*a, *b).item() == merge(*b, *a).item() == 5.0


@settings(deadline=None, max_examples=50)
@given(
    seeds,
    st.lists(st.integers(-1, 3), min_size=1, max_size=9),
    st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    st.integers(0, 2),
    st.sampled_from([None, 4]),
)
def test_a_grouped_prefix_and_own_tokens_are_each_rows_full_attention(
    seed, lane_of, heads, spare, chunk
):
    """Rows on four lanes with prefixes of unequal length, and own tokens of unequal length."""
    heads, kv_heads = heads
    rows, room, own_room = len(lane_of), 11, 6
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, room + 1, (4,), generator=generator)
    own_lengths = torch.randint(1, own_room + 1, (rows,), generator=generator)
    q, k, v, own_k, own_v = drawn(
        seed,
        (rows, heads, 1, 8),
        *[(4, kv_heads, room, 8)] * 2,
        *[(rows, kv_heads, own_room, 8)] * 2,
    )
    width = max(lane_of.count(lane) for lane in range(4)) + spare
    groups = Groups(lane_of, 4, max(1, width), torch.device("cpu"))
    grouped = half(groups.gather(q, kv_heads), k, v, length_bias(lengths, room), chunk)
    shared, shared_lse = (groups.scatter(x, heads, 1) for x in grouped)
    own, own_lse = half(fold(q, kv_heads), own_k, own_v, length_bias(own_lengths, own_room), chunk)
    own, own_lse = own.reshape(rows, heads, 1, 8), own_lse.reshape(rows, heads, 1, 1)
    found = merge(shared, shared_lse, own, own_lse)
    assert torch.isfinite(found).all()
    for row, lane in enumerate(lane_of):
        if lane < 0:
            continue
        prefix, said = lengths[lane], own_lengths[row]
        keys, values = (
            torch.cat([a[lane, :, :prefix], b[row, :, :said]], dim=1)[None]
            for a, b in ((k, own_k), (v, own_v))
        )
        assert torch.allclose(
            found[row], softmax_attention(q[row][None], keys, values)[0], atol=1e-5
        )


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_suffixes_of_several_tokens_see_their_prefix_and_what_stands_before_them(heads):
    heads, kv_heads = heads
    tokens, keys, lane_of = 5, 7, [1, 0, 1]
    q, k, v, own_k, own_v = drawn(
        3, (3, heads, tokens, 8), *[(2, kv_heads, keys, 8)] * 2, *[(3, kv_heads, tokens, 8)] * 2
    )
    groups = Groups(lane_of, 2, None, torch.device("cpu"))
    grouped = half(groups.gather(q, kv_heads), k, v, None)
    shared, lse = (groups.scatter(x, heads, tokens) for x in grouped)
    bias = causal_bias(tokens, heads // kv_heads, torch.device("cpu"))
    own, own_lse = half(fold(q, kv_heads), own_k, own_v, bias)
    found = merge(shared, lse, own.reshape(q.shape), own_lse.reshape(*q.shape[:3], 1))
    mask = torch.cat([torch.ones(tokens, keys), torch.ones(tokens, tokens).tril()], 1).bool()
    all_k, all_v = (torch.cat([a[lane_of], b], 2) for a, b in ((k, own_k), (v, own_v)))
    assert torch.allclose(found, softmax_attention(q, all_k, all_v, mask), atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(seeds, st.integers(1, 30), st.integers(1, 8))
def test_attention_in_chunks_is_that_over_the_whole(seed, keys, chunk):
    q, k, v = drawn(seed, (3, 2, 4, 8), *[(3, 2, keys, 8)] * 2)
    lengths = torch.randint(1, keys + 1, (3,), generator=torch.Generator().manual_seed(seed))
    bias = length_bias(lengths, keys)
    for whole, part in zip(half(q, k, v, bias), half(q, k, v, bias, chunk), strict=True):
        assert torch.allclose(whole, part, atol=2e-6)


@settings(deadline=None, max_examples=50)
@given(seeds, st.integers(1, 8), st.integers(1, 3))
def test_chunks_that_are_masked_throughout_change_no_bit(seed, length, more):
    q, k, v = drawn(seed, (2, 2, 4, 8), *[(2, 2, 8 + 8 * more, 8)] * 2)
    lengths = torch.tensor([length, 8])
    short = half(q, k[:, :, :8], v[:, :, :8], length_bias(lengths, 8), 8)
    long = half(q, k, v, length_bias(lengths, 8 + 8 * more), 8)
    assert all(torch.equal(a, b) for a, b in zip(short, long, strict=True))


def test_keys_that_are_all_masked_weigh_nothing():
    q, k, v = drawn(1, (1, 2, 3, 8), *[(1, 2, 5, 8)] * 2)
    out, lse = half(q, k, v, torch.full((1, 1, 1, 5), -torch.inf))
    assert torch.isfinite(out).all()
    other = half(q, k, v, None)
    assert torch.equal(merge(out, lse, *other), other[0])
    assert torch.equal(merge(*other, out, lse), other[0])


@pytest.mark.parametrize("chunk", [None, 3])
def test_capped_scores_are_cap_times_tanh_before_the_mask(chunk):
    q, k, v = drawn(2, (2, 2, 3, 8), *[(2, 2, 7, 8)] * 2)
    lengths = torch.tensor([4, 7])
    with capped(1.5):
        found, _ = half(q, k, v, length_bias(lengths, 7), chunk)
    scores = 1.5 * torch.tanh(q @ k.mT / 1.5)
    scores = scores.masked_fill(torch.arange(7) >= lengths[:, None, None, None], -torch.inf)
    assert torch.allclose(found, scores.softmax(-1) @ v, atol=1e-5)
    uncapped, _ = half(q, k, v, length_bias(lengths, 7), chunk)
    assert not torch.allclose(found, uncapped, atol=1e-3)


def test_weights_of_half_precision_values_are_summed_in_float32():
    q, k, v = (x.bfloat16() for x in drawn(4, (1, 1, 1, 8), *[(1, 1, 4000, 8)] * 2))
    out, lse = half(q, k, v, None)
    assert lse.dtype == torch.float32
    assert out.dtype == torch.bfloat16
    scores = (q @ k.mT).double()
    assert torch.allclose(lse.double(), scores.logsumexp(-1, keepdim=True), atol=1e-3)


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=12), st.integers(1, 3))
def test_every_row_comes_back_from_its_own_place(lane_of, per):
    groups = Groups(lane_of, 5, 12, torch.device("cpu"))
    query = torch.arange(len(lane_of) * 2 * per).float().view(-1, 2 * per, 1, 1)
    back = groups.scatter(groups.gather(query, 2), 2 * per, 1)
    for row, lane in enumerate(lane_of):
        if lane >= 0:
            assert torch.equal(back[row], query[row])
            # Its place among the gathered is one of its lane's.
            assert groups.back[row].item() // 12 == lane


def test_attention_outside_the_engine_is_an_error():
    with pytest.raises(RuntimeError, match="outside the engine"):
        attention.attention(None, *drawn(1, *[(1, 1, 1, 4)] * 3))


class Work:
    span = 30

    def __init__(self):
        self.seen = []

    def attend(self, layer, query, key, value, mask):
        self.seen.append((layer, query, attention.is_capped()))
        return query


class Module:
    layer_idx = 4


def test_queries_are_scaled_as_the_model_asks_or_by_the_root_of_the_head_and_given_back_by_token():
    query = drawn(1, (2, 3, 5, 16))[0]
    work = Work()
    with working(work):
        out, _ = attention.attention(Module, query, query, query)
        attention.attention(Module, query, query, query, scaling=2.0, softcap=9.0)
    assert out.shape == (2, 5, 3, 16)
    (layer, first, was_capped), (_, second, is_capped) = work.seen
    assert layer == 4
    assert torch.allclose(first, query / 4)
    assert torch.allclose(second, query * 2)
    assert (was_capped, is_capped, attention.is_capped()) == (False, True, False)


def test_a_window_is_refused_if_a_row_may_read_more_than_it_and_only_then():
    query = drawn(1, (1, 1, 1, 4))[0]
    with working(Work()):
        attention.attention(Module, query, query, query, sliding_window=30)
        with pytest.raises(
            LmmsteerError, match="30 tokens is longer than the model's window of 29"
        ):
            attention.attention(Module, query, query, query, sliding_window=29)
