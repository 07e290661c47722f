"""The gate on the token that a row's own sampling would take, against processors on generate.

The noise of these is `word_by_hand`'s, in plain Python integers.
"""

import math
from functools import cache

import pytest
import torch
from transformers import LogitsProcessor

from lmmsteer.engine.edit import Adjustment, Edit
from lmmsteer.engine.edit.cross import CrossAdjustment
from lmmsteer.engine.sampling import Draws, Sampling, choose, row_keys
from tests.engine.test_families import NEW, rows
from tests.engine.test_rules import (
    FAMILIES,
    GREEDY,
    MAKES,
    Parity,
    beta_of,
    by_generate,
    targets,
    told,
)
from tests.engine.test_sampling import word_by_hand
from tests.tiny_families import tiny_family_lmm

SAMPLED = Sampling(temperature=0.75, top_k=9, max_new_tokens=NEW)
ONE = torch.tensor(1.0)


class Drawing(LogitsProcessor):
    """Top-k sampling of a row by its own noise, behind adjustments that are gated on the draw.

    terms: (beta, lam, tau, target, magnitude, gate), all on the same logits.
    """

    def __init__(self, row_id, prompt, terms):
        self.row_id, self.prompt, self.terms = row_id, prompt, terms
        self.opened = []

    def __call__(self, ids, scores):
        said, z = ids[0, self.prompt :].tolist(), scores[0].double()
        shift = torch.zeros_like(z)
        for beta, lam, tau, target, magnitude, gate in self.terms:
            token = self.drawn(z, len(said)) if gate == "drawn" else int(z.argmax())
            if abs(beta[token]) < tau:
                continue
            self.opened.append(gate)
            heard = [*said, token]
            read = sum(1 if t % 2 == 0 else -1 for t in heard) / len(heard)
            read, beta = (abs(read), beta.abs()) if magnitude else (read, beta)
            shift += lam * (read - target) * beta.double()
        chosen = self.drawn(z - shift, len(said))
        return torch.full_like(scores, -math.inf).index_fill(1, torch.tensor([chosen]), 0.0)

    def drawn(self, z, step):
        noisy = {}
        for token in z.topk(SAMPLED.top_k).indices.tolist():
            w = (word_by_hand(self.row_id, step, token) + 0.5) / 2**32
            noisy[token] = float(z[token]) / SAMPLED.temperature - math.log(-math.log1p(-w))
        return max(noisy, key=noisy.get)


@cache
def gated_by_generate(name):
    beta, target = beta_of(tiny_family_lmm(name).vocab_size), targets()

    def processors(at, length):
        terms = [(beta, 6.0, 0.5, float(target[at]), False, "drawn")]
        return [Drawing(rows()[at].row_id, length, terms)]

    return by_generate(name, processors)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_gate_looks_at_the_token_that_would_be_drawn(name, make):
    beta = beta_of(tiny_family_lmm(name).vocab_size)
    rule = Adjustment(beta, targets(), Parity(ONE), 6.0, 0.5, gate="drawn")
    wanted = gated_by_generate(name)
    assert told(name, make, Edit(rules=(rule,)), sampling=SAMPLED) == wanted
    assert wanted != told(name, make, Edit(), sampling=SAMPLED)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_terms_have_gates_of_their_own_on_the_same_logits(make):
    size = tiny_family_lmm("llava").vocab_size
    betas = beta_of(size), beta_of(size, 1)
    terms = [
        Adjustment(betas[0], torch.zeros(1), Parity(ONE), 6.0, 0.6, gate="drawn"),
        Adjustment(betas[1], torch.ones(1), Parity(ONE), 3.0, 0.5, magnitude=True),
    ]
    seen = []

    def processors(at, length):
        made = [
            (betas[0], 6.0, 0.6, 0.0, False, "drawn"),
            (betas[1], 3.0, 0.5, 1.0, True, "greedy"),
        ]
        seen.append(Drawing(rows()[at].row_id, length, made))
        return seen[-1:]

    wanted = by_generate("llava", processors)
    edit = Edit(rules=(CrossAdjustment.of(terms),))
    assert told("llava", make, edit, sampling=SAMPLED) == wanted
    assert {gate for one in seen for gate in one.opened} == {"drawn", "greedy"}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_for_greedy_answers_both_gates_are_one(make):
    beta = beta_of(tiny_family_lmm("llava").vocab_size)
    greedy, drawn = (
        told("llava", make, Edit(rules=(rule,)))
        for rule in (
            Adjustment(beta, torch.zeros(1), Parity(ONE), 6.0, 0.2, gate=gate)
            for gate in ("greedy", "drawn")
        )
    )
    assert greedy == drawn
    assert drawn != told("llava", make, Edit(), sampling=GREEDY)


def test_a_shut_gate_draws_what_the_unsteered_row_draws():
    beta = beta_of(tiny_family_lmm("llava").vocab_size)
    rule = Adjustment(beta, torch.ones(1), Parity(ONE), 9.0, 2.0, gate="drawn")
    for make in MAKES.values():
        assert told("llava", make, Edit(rules=(rule,)), sampling=SAMPLED) == told(
            "llava", make, Edit(), sampling=SAMPLED
        )


def test_draws_are_choose_and_remember_whose_ties_were_too_many():
    keys, sampling = row_keys([f"{at:032x}" for at in range(3)]), Sampling(top_k=5)
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    crowd = logits.clone()
    crowd[1] = 1.0
    exact, among = Draws(keys, 2, sampling), Draws(keys, 2, sampling, exact=False)
    for z in (crowd, logits):
        assert torch.equal(exact(z), choose(z, keys, 2, sampling))
    assert torch.equal(among(logits), exact(logits))
    assert not among.crowded.any()
    among(crowd)
    among(logits)
    assert among.crowded.tolist() == [False, True, False]
    assert not exact.crowded.any()
