import hashlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from lmmsteer.engine.sampling import (
    SPARE,
    NextToken,
    Sampling,
    choose,
    choose_among,
    gumbel,
    masked,
    noise_words,
    nonfinite,
    row_keys,
)
from lmmsteer.errors import LmmsteerError

WORD = 2**32 - 1


def ids(n, salt=""):
    return [hashlib.blake2b(f"{salt}{i}".encode(), digest_size=16).hexdigest() for i in range(n)]


def mix(x):
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & WORD
    x = ((x ^ (x >> 15)) * 0x846CA68B) & WORD
    return x ^ (x >> 16)


def word_by_hand(row_id, step, token):
    w0, w1, w2, w3 = (int(row_id[at : at + 8], 16) for at in (0, 8, 16, 24))
    s0 = mix(((w0 ^ w2) + step * 0x9E3779B9) & WORD)
    s1 = mix(((w1 ^ w3) + step * 0x9E3779B9) & WORD)
    return mix(mix((token * 0x85EBCA6B + s0) & WORD) ^ s1)


@given(
    st.text("0123456789abcdef", min_size=32, max_size=32),
    st.integers(0, 100_000),
    st.lists(st.integers(0, 300_000), min_size=1, max_size=5),
)
def test_the_hash_is_the_same_in_plain_python_integers(row_id, step, tokens):
    found = noise_words(row_keys([row_id]), step, torch.tensor([tokens]))[0].tolist()
    assert [word & WORD for word in found] == [word_by_hand(row_id, step, t) for t in tokens]


def test_the_noise_is_minus_log_of_minus_log_of_a_uniform():
    row_id = ids(1)[0]
    found = gumbel(row_keys([row_id]), 7, torch.arange(2000)[None])[0]
    for token, noise in enumerate(found.tolist()):
        w = (word_by_hand(row_id, 7, token) + 0.5) / 2**32
        assert noise == pytest.approx(-math.log(-math.log1p(-w)), abs=2e-5)


def test_the_most_extreme_hashes_give_finite_noise(monkeypatch):
    extreme = torch.tensor([[0, -1, 2**31 - 1, -(2**31), 255, -256]], dtype=torch.int32)
    monkeypatch.setattr("lmmsteer.engine.sampling.noise_words", lambda *_: extreme)
    assert torch.isfinite(gumbel(row_keys(ids(1)), 0, torch.zeros(1, 6))).all()


def chi_square(counts, expected):
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("over", ["rows", "steps"])
def test_draws_follow_the_softmax(over):
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, 1.5])
    n = 40_000
    sampling = Sampling(temperature=0.75, top_k=0)
    if over == "rows":
        drawn = choose(logits.expand(n, -1), row_keys(ids(n)), 3, sampling)
    else:
        keys = row_keys(ids(1)).expand(n, -1)
        drawn = choose(logits.expand(n, -1), keys, torch.arange(n), sampling)
    counts = torch.bincount(drawn, minlength=8).double()
    expected = (logits.double() / 0.75).softmax(-1) * n
    assert chi_square(counts, expected) < 29.9  # 7 degrees of freedom, p = 1e-4


def test_consecutive_draws_of_a_row_are_independent():
    n = 60_000
    keys = row_keys(ids(1, "pairs")).expand(n, -1)
    drawn = choose(torch.zeros(n, 4), keys, torch.arange(n), Sampling(top_k=0))
    pairs = torch.bincount(drawn[:-1] * 4 + drawn[1:], minlength=16).double()
    assert chi_square(pairs, (n - 1) / 16) < 44.3  # 15 degrees of freedom, p = 1e-4


def test_ids_that_differ_in_one_digit_get_unrelated_noise():
    near = [f"{i:032x}" for i in range(2000)]
    noise = gumbel(row_keys(near), 0, torch.arange(2)[None])
    lagged = torch.stack([noise[:-1, 0], noise[1:, 0], noise[:-1, 1]])
    off_diagonal = torch.corrcoef(lagged) - torch.eye(3)
    assert off_diagonal.abs().max() < 4 / math.sqrt(2000)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.sampled_from([1.0, 0.9, 0.5, 0.05]))
def test_top_k_and_top_p_keep_what_transformers_keeps(seed, top_k, top_p):
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(seed)) * 3
    theirs = TemperatureLogitsWarper(0.75)(None, logits)
    if top_k < 50:
        theirs = TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = TopPLogitsWarper(top_p)(None, theirs)
    ours = masked(logits / 0.75, top_k, top_p)
    assert torch.equal(ours, theirs)


def test_tokens_tied_with_the_last_one_kept_are_kept():
    scores = torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]])
    assert torch.isfinite(masked(scores, 2, 1.0))[0].tolist() == [0, 1, 1, 1, 1, 0]
    assert torch.equal(masked(scores, 2, 1.0), TopKLogitsWarper(2)(None, scores))
    # softmax: 3 -> 0.42, each 2 -> 0.155; 0.5 of the mass ends inside the tie.
    assert torch.isfinite(masked(scores, 0, 0.5))[0].tolist() == [0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("levels", [None, 40, 3])
def test_choosing_among_candidates_is_choosing_among_all_tokens(levels):
    logits = torch.randn(64, 500, generator=torch.Generator().manual_seed(1)) * 2
    if levels:  # Coarse logits, as bfloat16 makes them, are full of ties.
        logits = (logits * levels / 8).round() * 8 / levels
    keys, sampling = row_keys(ids(64)), Sampling(temperature=0.8, top_k=20, top_p=0.95)
    scores = masked(logits / 0.8, 20, 0.95)
    expected = (scores + gumbel(keys, 5, torch.arange(500)[None])).argmax(-1)
    assert torch.equal(choose(logits, keys, 5, sampling), expected)


@pytest.mark.parametrize("top_k", [0, 20])
def test_a_rows_token_does_not_depend_on_its_batch(top_k):
    logits = torch.randn(16, 300, generator=torch.Generator().manual_seed(2))
    keys, steps = row_keys(ids(16)), torch.arange(16)
    sampling = Sampling(top_k=top_k)
    together = choose(logits, keys, steps, sampling)
    for row in range(16):
        alone = choose(logits[row : row + 1], keys[row : row + 1], row, sampling)
        assert alone.item() == together[row].item()


def test_temperature_zero_takes_the_largest_logit_and_top_k_one_does_too():
    logits = torch.randn(8, 100, generator=torch.Generator().manual_seed(3))
    keys = row_keys(ids(8))
    for sampling in (Sampling(temperature=0), Sampling(top_k=1), Sampling(top_p=1e-6)):
        assert torch.equal(choose(logits, keys, 0, sampling), logits.argmax(-1))


def test_the_logits_processor_leaves_only_the_chosen_token_and_ends_a_row_that_is_not_finite():
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(4))
    keys, sampling = row_keys(ids(3)), Sampling()
    expected = choose(logits, keys, 2, sampling).tolist()
    logits[1, 5] = torch.nan
    process = NextToken(keys, sampling, prompt_length=10, eos_ids=(9,))
    forced = process(torch.zeros(3, 12, dtype=torch.long), logits)
    assert forced.argmax(-1).tolist() == [expected[0], 9, expected[2]]
    assert torch.isfinite(forced).sum(-1).tolist() == [1, 1, 1]
    assert process.failed_at.tolist()[1] == 2
    assert process.failed_at.tolist()[0] > 10**9


def test_nan_and_plus_infinity_are_not_finite_but_a_masked_token_is():
    logits = torch.zeros(4, 5)
    logits[0, 1], logits[1, 1], logits[2, 1] = torch.nan, torch.inf, -torch.inf
    logits[3] = -torch.inf
    assert nonfinite(logits).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}, {"max_new_tokens": 0}],
)
def test_a_setting_out_of_range_is_refused_by_name(wrong):
    with pytest.raises(LmmsteerError, match=f"sampling.{next(iter(wrong))}="):
        Sampling(**wrong)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, 8, 2, 1]), st.sampled_from([1.0, 0.9]))
def test_candidates_suffice_unless_ties_with_the_last_one_kept_fill_all_the_room(
    seed, levels, top_p
):
    logits = torch.randn(16, 200, generator=torch.Generator().manual_seed(seed)) * 2
    if levels:  # Coarse logits are full of ties.
        logits = (logits * levels / 2).round() * 2 / levels
    keys, sampling = row_keys(ids(16)), Sampling(top_k=10, top_p=top_p)
    whole = choose(logits, keys, 3, sampling)
    among, crowded = choose_among(logits, keys, 3, sampling)
    assert torch.equal(among[~crowded], whole[~crowded])
    # At least so many as there is room for are as large as the tenth.
    tenth = logits.sort(-1, descending=True).values[:, 9:10]
    assert torch.equal(crowded, (logits >= tenth).sum(-1) >= 10 + SPARE)


def test_tokens_that_are_forbidden_do_not_crowd_a_row():
    logits = torch.full((3, 1000), -torch.inf)
    logits[:, :5] = torch.randn(3, 5)
    keys, sampling = row_keys(["0" * 32, "1" * 32, "2" * 32]), Sampling()
    among, crowded = choose_among(logits, keys, 1, sampling)
    assert not crowded.any()
    assert torch.equal(among, choose(logits, keys, 1, sampling))
    assert (among < 5).all()


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0), Sampling(top_k=0), Sampling(top_k=190)]
)
def test_no_row_is_crowded_where_every_token_is_looked_at(sampling):
    logits, keys = torch.zeros(3, 200), row_keys(ids(3))
    among, crowded = choose_among(logits, keys, 0, sampling)
    assert not crowded.any()
    assert torch.equal(among, choose(logits, keys, 0, sampling))


def test_crowded_rows_are_drawn_from_all_their_ties_whatever_their_steps():
    logits, keys = torch.zeros(500, 100), row_keys(ids(500))
    steps = torch.arange(500, dtype=torch.int32)
    chosen = choose(logits, keys, steps, Sampling(top_k=5))
    expected = gumbel(keys, steps, torch.arange(100)[None]).argmax(-1)
    assert torch.equal(chosen, expected)
    assert len(set(chosen.tolist())) > 90
