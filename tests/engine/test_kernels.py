"""The layout of the cards' kernels, and the recording of steps, with stand-ins for the card."""

import logging
from contextlib import contextmanager

import pytest
import torch
import torch.nn.attention.varlen as library

from lmmsteer.engine import capture, kernels
from lmmsteer.engine.attention import capped, fold, half, length_bias
from lmmsteer.engine.capture import Captured

CPU = torch.device("cpu")


def varlen_attn(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    enable_gqa=False,
    seqused_k=None,
    num_splits=None,
):
    """What torch documents: packed sequences, each query over the first seqused_k keys."""
    assert num_splits == 1  # Else a row's bits hang on its companions.
    assert cu_seq_q.dtype == cu_seq_k.dtype == seqused_k.dtype == torch.int32
    assert cu_seq_q[-1] == len(query)
    assert cu_seq_k[-1] == len(key) == len(value)
    assert enable_gqa or query.shape[1] == key.shape[1]
    out, lse = torch.empty_like(query), torch.empty(query.shape[1], len(query))
    per = query.shape[1] // key.shape[1]
    for n, used in enumerate(seqused_k.tolist()):
        q0, q1, k0, k1 = *cu_seq_q[n : n + 2].tolist(), *cu_seq_k[n : n + 2].tolist()
        assert q1 - q0 <= max_q
        assert used <= k1 - k0 <= max_k
        for head in range(query.shape[1]):
            k, v = (x[k0 : k0 + used, head // per] for x in (key, value))
            scores = query[q0:q1, head] @ k.T * scale
            out[q0:q1, head] = scores.softmax(-1) @ v
            lse[head, q0:q1] = scores.logsumexp(-1)
    return (out, lse) if return_aux.lse else out


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 3)])
@pytest.mark.parametrize("rows", [1, 3, 4])  # As many rows as heads, too.
def test_the_varlen_half_is_the_plain_one_and_reads_no_key_behind_a_rows_length(
    heads, rows, monkeypatch
):
    monkeypatch.setattr(library, "varlen_attn", varlen_attn)
    heads, kv_heads = heads
    generator = torch.Generator().manual_seed(rows)
    query = torch.randn(rows, heads, 1, 8, generator=generator)
    key, value = (torch.randn(rows, 6, kv_heads, 8, generator=generator) for _ in range(2))
    lengths = torch.tensor([6, 1, 4, 3])[:rows]
    for row, length in enumerate(lengths.tolist()):
        key[row, length:] = value[row, length:] = torch.nan
    key, value = key.transpose(1, 2), value.transpose(1, 2)
    out, lse = kernels.varlen_half(query, key, value, lengths)
    bias = length_bias(lengths, 6)
    whole = half(fold(query, kv_heads), key.nan_to_num(), value.nan_to_num(), bias)
    assert torch.allclose(out, whole[0].reshape(out.shape), atol=1e-5)
    assert torch.allclose(lse, whole[1].reshape(rows, heads, 1, 1), atol=1e-5)


def test_a_processor_uses_no_kernel_and_capped_scores_neither():
    query = torch.zeros(2, 4, 1, 8, dtype=torch.bfloat16)
    for name in ("flash", "varlen"):
        assert not kernels.proven(name, CPU, torch.bfloat16, (4, 4), 8)
        assert not kernels.usable(name, query, query)
    with capped(3.0):
        assert not kernels.usable("flash", query.to("meta"), query)


CARD = torch.device("cuda:7")


@pytest.fixture
def trials(monkeypatch):
    """Proofs as if on a card, with tensors that stay here; nothing remembered afterwards."""
    drawn = kernels._drawn
    monkeypatch.setattr(kernels, "_drawn", lambda _, dtype, *shapes: drawn(CPU, dtype, *shapes))
    kernels.proven.cache_clear()
    original = torch.tensor
    monkeypatch.setattr(
        kernels.torch, "tensor", lambda *a, **named: original(*a, **{**named, "device": CPU})
    )
    yield monkeypatch
    kernels.proven.cache_clear()


@pytest.mark.parametrize("heads", [(4, 4), (8, 2)])
def test_a_kernel_that_is_right_is_proven_also_with_fewer_heads_of_keys(heads, trials):
    trials.setattr(kernels, "varlen_half", by_hand)
    assert kernels.proven("varlen", CARD, torch.bfloat16, heads, 16)
    assert not kernels.proven("varlen", CARD, torch.float32, heads, 16)


def by_hand(query, key, value, lengths):
    out, lse = half(fold(query, key.shape[1]), key, value, length_bias(lengths, key.shape[2]))
    rows, heads, _, head_dim = query.shape
    return out.reshape(rows, heads, 1, head_dim), lse.reshape(rows, heads, 1, 1)


def test_a_kernel_that_is_off_or_fails_is_not_used_and_the_log_says_why(trials, caplog):
    def off(*arguments):
        out, lse = by_hand(*arguments)
        return out + 0.5, lse

    def nan(*arguments):
        out, lse = by_hand(*arguments)
        return out * torch.nan, lse

    def missing(*_):
        raise ImportError("no varlen here")

    caplog.set_level(logging.WARNING)
    for kernel, said in ((off, "off by 0.5"), (nan, "off by nan"), (missing, "no varlen here")):
        trials.setattr(kernels, "varlen_half", kernel)
        kernels.proven.cache_clear()
        assert not kernels.proven("varlen", CARD, torch.bfloat16, (4, 4), 16)
        assert said in caplog.text


def test_the_gap_between_a_kernel_and_the_plain_one_is_found_in_either_output():
    zero, one = torch.zeros(3), torch.ones(3)
    assert kernels._gap((one, zero), (zero, zero)) == 1
    assert kernels._gap((zero, one), (zero, zero)) == 1


class Card:
    """Streams and graphs as torch.cuda has them; a replay runs the recorded step again."""

    def __init__(self, captured):
        self.captured, self.recorded, self.replayed, self.refuses = captured, 0, 0, False
        self.pools = []

    def Stream(self):  # noqa: N802
        return self

    def current_stream(self):
        return self

    def wait_stream(self, other):
        assert other is self

    @contextmanager
    def stream(self, stream):
        assert stream is self
        yield

    def CUDAGraph(self):  # noqa: N802
        return Graph(self)

    @contextmanager
    def graph(self, graph, pool):
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.pools.append(pool)
        before = [tensor.clone() for tensor in self.captured().state()]
        yield
        self.captured().restore(before)  # Recording runs nothing.
        self.recorded += 1


class Graph:
    def __init__(self, card):
        self.card = card

    def replay(self):
        self.card.replayed += 1
        self.card.captured().step()

    def pool(self):
        return "pool"


@pytest.fixture
def counting(monkeypatch):
    """A step that counts into its state and tells the count, captured on a stand-in card."""
    state, out = torch.zeros(1), torch.zeros(1)

    def step():
        state.add_(1)
        return out.copy_(state)

    captured = Captured(step, lambda: [state])
    card = Card(lambda: captured)
    monkeypatch.setattr(capture.torch, "cuda", card)
    return captured, card


def test_a_step_is_recorded_once_for_each_key_and_replayed_from_then_on(counting):
    captured, card = counting
    said = [captured(key).item() for key in ("a", "a", "b", "a", "b")]
    assert said == [1, 2, 3, 4, 5]  # Neither warm-up nor recording counted.
    assert (card.recorded, card.replayed) == (2, 5)
    assert card.pools == [None, "pool"]  # All graphs share one.


def test_after_forgetting_a_step_is_recorded_anew(counting):
    captured, card = counting
    captured("a")
    captured.forget()
    assert captured("a").item() == 2
    assert card.recorded == 2


def test_a_step_that_cannot_be_recorded_runs_as_it_is_and_the_log_says_so(counting, caplog):
    captured, card = counting
    captured("a")
    card.refuses = True
    assert [captured(key).item() for key in ("b", "b", "a")] == [2, 3, 4]
    assert (card.recorded, card.replayed) == (1, 1)
    assert caplog.text.count("runs without a graph") == 1


def test_the_state_can_be_put_back_and_the_step_done_again(counting):
    captured, _ = counting
    captured("a")
    before = [tensor.clone() for tensor in captured.state()]
    assert captured("a").item() == 2
    captured.restore(before)
    assert captured("a").item() == 2
