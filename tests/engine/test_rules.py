"""Rules for logits against processors written out on transformers' own generate."""

from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, NoBadWordsLogitsProcessor

from lmmsteer.engine.edit import Adjustment, Bias, Edit, Phrases
from lmmsteer.engine.edit.logits import likeliest
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.rules import Remembering, structure
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from tests.engine.test_families import NEW, PICTURES, rows
from tests.tiny import photographs, tiny_llava
from tests.tiny_families import tiny_family, tiny_family_lmm

GREEDY = Sampling(temperature=0, max_new_tokens=NEW)
MAKES = {
    "shared": lambda: Shared(4),
    "strict": lambda: Shared(4, strict=True),
    "reference": lambda: Reference(5),
}
FAMILIES = ["llava", "mllama", "qwen2_5_vl", "paligemma", "blip", "clipcap"]


@dataclass(frozen=True)
class Parity:
    """f_text: how much oftener even tokens than odd ones were said, the candidate counted too."""

    weight: Tensor

    def start(self, rows, device):
        return torch.zeros(rows, 2, dtype=torch.long, device=device)

    def advance(self, memory, tokens):
        even = tokens % 2 == 0
        return memory + torch.stack([even, ~even], 1).long()

    def score(self, memory, tokens, dense=True):
        even, odd = self.advance(memory, tokens).unbind(1)
        return self.weight * (even - odd) / (even + odd)


class Written(LogitsProcessor):
    """The equation, a row at a time: z' = z - lam (a - s) beta behind the gate."""

    def __init__(self, prompt, beta, lam, tau, target, magnitude):
        self.prompt, self.beta, self.lam, self.tau = prompt, beta, lam, tau
        self.target, self.magnitude = target, magnitude

    def __call__(self, ids, scores):
        z, beta = scores[0].double(), self.beta.double()
        greedy = int(z.argmax())
        if abs(beta[greedy]) < self.tau:
            return scores
        said = [*ids[0, self.prompt :].tolist(), greedy]
        read = sum(1 if t % 2 == 0 else -1 for t in said) / len(said)
        if self.magnitude:
            return (z - self.lam * (abs(read) - self.target) * beta.abs()).float()[None]
        return (z - self.lam * (read - self.target) * beta).float()[None]


def folder(name):
    return tiny_llava() if name == "llava" else tiny_family(name)


def told(name, make, edit, requests=None, sampling=GREEDY):
    requests = requests or rows()
    found = list(make().generate(tiny_family_lmm(name), requests, photographs(), edit, sampling))
    assert [r.error for r in found] == [None] * len(found)
    return [r.token_ids for r in found]


def by_generate(name, processors_of):
    """Greedy answers of transformers' generate, a row at a time, with processors of its own."""
    lmm, answers = tiny_family_lmm(name), []
    for at, request in enumerate(rows()):
        inputs = lmm.inputs([request.prompt], [photographs()[request.image_id]])
        length = inputs["input_ids"].shape[1]
        out = lmm.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=NEW,
            eos_token_id=list(lmm.eos_ids) or None,
            pad_token_id=0,
            logits_processor=LogitsProcessorList(processors_of(at, length)),
        )
        tokens = out[0, length:].tolist()
        answers.append(tokens[:-1] if tokens[-1] in lmm.eos_ids else tokens)
    return answers


def beta_of(size, seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def targets():
    """Each row's own, by its picture."""
    return torch.tensor([0.9 - 0.2 * PICTURES.index(r.image_id) for r in rows()])


@cache
def adjusted_by_generate(name, magnitude):
    beta, target = beta_of(tiny_family_lmm(name).vocab_size), targets()
    return by_generate(
        name, lambda at, n: [Written(n, beta, 6.0, 0.2, float(target[at]), magnitude)]
    )


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("name", FAMILIES)
def test_an_adjustment_is_the_equation_with_each_rows_own_target(name, make):
    beta, plain = beta_of(tiny_family_lmm(name).vocab_size), told(name, make, Edit())
    for magnitude in (False, True):
        rule = Adjustment(beta, targets(), Parity(torch.tensor(1.0)), 6.0, 0.2, magnitude)
        wanted = adjusted_by_generate(name, magnitude)
        assert told(name, make, Edit(rules=(rule,))) == wanted
        assert wanted != plain


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_phrases_are_what_no_bad_words_forbids(name, make):
    plain = told(name, make, Edit())
    bad = [tokens[at : at + 2] for tokens in plain for at in (0, 2)] + [
        plain[0][1:4],
        plain[3][2:5],
    ]
    width = max(map(len, bad))
    ids = torch.tensor([[-1] * (width - len(b)) + b for b in bad])
    wanted = by_generate(
        name, lambda _, n: [After(n, NoBadWordsLogitsProcessor(bad, eos_token_id=None))]
    )
    assert told(name, make, Edit(rules=(Phrases(ids, float("inf")),))) == wanted
    assert wanted != plain


class After(LogitsProcessor):
    """A processor that sees what was generated alone."""

    def __init__(self, length, inner):
        self.length, self.inner = length, inner

    def __call__(self, ids, scores):
        said = ids[:, self.length :]  # Releases differ where there are few.
        nothing = ids.new_full((len(ids), 4), -1)
        return self.inner(torch.cat([nothing, said], 1), scores)


def test_a_finite_penalty_is_taken_once_from_a_token_that_ends_two_phrases():
    rule = Phrases(torch.tensor([[-1, 3, 5], [2, 3, 5], [-1, 4, 6]]), 1.5)
    memory = rule.advance(
        rule.advance(rule.start(2, torch.device("cpu")), torch.tensor([2, 1])), torch.tensor([3, 4])
    )
    found = rule.apply(torch.zeros(2, 8), memory, None, dense=False)
    assert found.tolist() == [[0, 0, 0, 0, 0, -1.5, 0, 0], [0, 0, 0, 0, 0, 0, -1.5, 0]]


def test_rules_act_one_after_the_other():
    first = Bias(torch.tensor([5.0, 0.0, 0.0]))
    second = Adjustment(
        torch.tensor([1.0, 0.0, -1.0]), torch.tensor([0.0]), Parity(torch.tensor(1.0))
    )
    held = Remembering(2, torch.device("cpu"))
    held.begin((first, second))
    logits = torch.tensor([[0.0, 1.0, 0.0]])
    # The bias makes token 0 the greedy one: even, a = 1, z' = z - 2 beta.
    assert held.apply(logits, likeliest, dense=True).tolist() == [[3.0, 1.0, 2.0]]
    held.begin((second, first))
    assert held.apply(logits, likeliest, dense=False).tolist() == [[5.0, 1.0, 0.0]]


NOTHING = {
    "lambda 0": lambda n: Adjustment(
        beta_of(n), torch.zeros(1), Parity(torch.tensor(1.0)), lam=0.0
    ),
    "beta 0": lambda n: Adjustment(torch.zeros(n), torch.ones(1), Parity(torch.tensor(1.0))),
    "a gate that never opens": lambda n: Adjustment(
        beta_of(n), torch.ones(1), Parity(torch.tensor(1.0)), tau=2.0
    ),
    "a penalty of nothing": lambda n: Phrases(torch.tensor([[1, 2]]), 0.0),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("rule", NOTHING.values(), ids=NOTHING)
def test_a_rule_that_changes_nothing_gives_the_unsteered_tokens(rule, make):
    sampled = Sampling(max_new_tokens=NEW)
    edit = Edit(rules=(rule(tiny_family_lmm("llava").vocab_size),))
    assert told("llava", make, edit, sampling=sampled) == told(
        "llava", make, Edit(), sampling=sampled
    )


def test_dense_and_gated_rows_are_the_same_numbers():
    rule = Adjustment(beta_of(50), torch.linspace(-1, 1, 6), Parity(torch.tensor(1.0)), tau=0.5)
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    memory = torch.randint(0, 9, (6, 2), generator=torch.Generator().manual_seed(2))
    found = [rule.apply(logits, memory, rule.target, dense=dense) for dense in (False, True)]
    assert torch.equal(*found)
    assert not torch.equal(found[0], logits)


def test_other_values_go_into_the_memory_that_a_captured_step_reads():
    held = Remembering(3, torch.device("cpu"))
    rule = Adjustment(beta_of(9, 1), torch.zeros(4), Parity(torch.tensor(1.0)))
    assert held.begin((rule,))
    before = held.rules[0].beta.data_ptr()
    other = replace(rule, beta=beta_of(9, 2), target=torch.ones(7))
    assert not held.begin((other,))
    assert held.rules[0].beta.data_ptr() == before
    assert torch.equal(held.rules[0].beta, other.beta)
    assert torch.equal(rule.beta, beta_of(9, 1))
    assert held.begin((replace(rule, lam=3.0),))
    assert structure(rule) != structure(replace(rule, lam=3.0))


def test_rows_of_one_target_do_not_hang_on_their_companions():
    size = tiny_family_lmm("llava").vocab_size
    target = torch.tensor([0.9 - 0.2 * PICTURES.index(r.image_id) for r in rows()])
    rule = Adjustment(beta_of(size), target, Parity(torch.tensor(1.0)), 6.0, 0.2)
    sampled = Sampling(max_new_tokens=NEW)
    whole = told("llava", lambda: Shared(3), Edit(rules=(rule,)), sampling=sampled)
    half = replace(rule, target=target[3:6])
    part = told("llava", lambda: Shared(7), Edit(rules=(half,)), rows()[3:6], sampled)
    assert part == whole[3:6]
