"""Constrained answers of random models: every one is whole, and nothing else is forbidden."""

from __future__ import annotations

import json
import random

import pytest
import torch

from analysis.judge.answer import SPANS_SCHEMA, Count, Reply, count_of
from lmmsteer.engine.constrained import Constraint, constraint
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.grammar import of_choices, of_schema
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from lmmsteer.errors import LmmsteerError
from lmmsteer.models.lexicon import token_texts
from lmmsteer.models.lmm import Lmm
from tests.engine.runs import PROMPTS, many, rows, run
from tests.tiny import tiny_lmm
from tests.tiny_families import tiny_family_lmm

SPANS = of_schema(SPANS_SCHEMA)
ENGINES = {"shared": Shared(6), "strict": Shared(16, strict=True), "reference": Reference(5)}


def answers(engine, rule: Constraint, temperature: float, lmm: Lmm | None = None, pictures=8):
    shown = dict(list(many().items())[:pictures])
    sampling = Sampling(temperature, top_k=0, max_new_tokens=rule.tokens)
    requests = rows(list(shown), PROMPTS[:2])
    return run(engine, requests, Edit(rules=(rule,)), sampling, lmm, shown)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("spare", [0, 1, 3, 40])
def test_every_reply_of_a_random_model_parses_and_validates(
    name: str, temperature: float, spare: int
) -> None:
    least = shortest(tiny_lmm())
    rule = constraint(tiny_lmm(), SPANS, least + spare)
    found = answers(ENGINES[name], rule, temperature, pictures=3 if name == "reference" else 8)
    for response in found:
        assert response.error is None
        assert response.finish_reason == "eos"
        assert response.new_tokens < least + spare  # The end takes one.
        assert isinstance(count_of(Reply(response.text), ""), Count), response.text
    if spare == 40:
        assert len({response.text for response in found}) > 1


def shortest(lmm: Lmm) -> int:
    rule = constraint(lmm, SPANS, 10_000)
    return int(rule.far[rule.start_state])


@pytest.mark.parametrize("family", ["mllama", "qwen2_5_vl", "paligemma"])
def test_it_holds_for_other_families(family: str) -> None:
    lmm = tiny_family_lmm(family)
    rule = constraint(lmm, SPANS, shortest(lmm) + 20)
    found = answers(Shared(6), rule, 1.0, lmm, pictures=4)
    assert all(isinstance(count_of(Reply(r.text or ""), ""), Count) for r in found)


def test_a_choice_is_one_of_the_choices() -> None:
    rule = constraint(tiny_lmm(), of_choices(("Yes", "No")), 12)
    found = answers(Shared(6), rule, 3.0, pictures=20)
    assert {response.text for response in found} == {"Yes", "No"}


def test_exactly_the_tokens_after_which_an_answer_can_go_on_are_left() -> None:
    lmm, rng = tiny_lmm(), random.Random(0)
    rule = constraint(lmm, SPANS, 500)
    texts = [t.encode("utf-8", "surrogateescape") for t in token_texts(lmm.tokenizer, 400)]
    for _ in range(20):
        memory, said = rule.start(1, torch.device("cpu")), b""
        for _ in range(rng.randrange(40)):
            left = rule.apply(torch.zeros(1, lmm.vocab_size), memory, None, dense=True)[0]
            allowed = torch.isfinite(left).nonzero().flatten().tolist()
            expected = [
                token
                for token, text in enumerate(texts)
                if (SPANS.reads(said + text) is not None and text)
                or (token in lmm.eos_ids and SPANS.reads(said) == SPANS.end)
            ]
            assert allowed == expected
            token = rng.choice(allowed)
            if token in lmm.eos_ids:
                json.loads(said)
                break
            memory = rule.advance(memory, torch.tensor([token]))
            said += texts[token]


def test_the_logits_of_what_is_left_are_not_changed() -> None:
    rule = constraint(tiny_lmm(), SPANS, 500)
    logits = torch.randn(1, tiny_lmm().vocab_size)
    left = rule.apply(logits, rule.start(1, torch.device("cpu")), None, dense=True)
    fine = torch.isfinite(left)
    assert 0 < fine.sum() < 10
    assert torch.equal(left[fine], logits[fine])


def test_an_answer_that_cannot_be_whole_in_time_is_refused_with_how_many_tokens_it_takes() -> None:
    least = shortest(tiny_lmm())
    with pytest.raises(LmmsteerError, match=f"takes {least} tokens") as error:
        constraint(tiny_lmm(), SPANS, least - 1)
    assert f"Allow {least}" in error.value.mend


def test_a_tokenizer_that_cannot_write_the_answer_is_refused() -> None:
    with pytest.raises(LmmsteerError, match="cannot write"):
        constraint(tiny_family_lmm("blip"), SPANS, 500)
