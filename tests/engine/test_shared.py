"""The shared engine on LLaVA: samples, order, lengths, counts."""

import random
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmsteer.demo.people import counterfactual_sets, draw
from lmmsteer.engine.edit import Edit, ResidualEdit
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shape import Shape
from lmmsteer.engine.shared import Shared
from lmmsteer.models.lmm import load
from tests.engine.runs import (
    GREEDY,
    NEW,
    PICTURES,
    PROMPTS,
    direction,
    many,
    rows,
    run,
    tokens,
    unsteered,
)
from tests.engine.test_hooks import orthonormal
from tests.tiny import photographs, tiny_llava, tiny_lmm
from tests.tiny_families import tiny_family_lmm


def test_a_thousand_sampled_answers_of_the_demo_are_those_of_the_reference_engine():
    lmm = load("demo", "demo")
    people = {person.image_id: draw(person) for person in counterfactual_sets(48)}
    requests = rows(people, seeds=range(7))
    sampling = Sampling(max_new_tokens=12)
    found = run(Shared(), requests, sampling=sampling, lmm=lmm, pictures=people)
    assert len(found) == 1008
    assert len({tuple(r.token_ids) for r in found}) > 200  # "What?" is answered in few words.
    assert len({r.finish_reason for r in found}) == 2
    assert found == run(Reference(64), requests, sampling=sampling, lmm=lmm, pictures=people)


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_answers_do_not_depend_on_slots_order_or_companions(slots):
    requests = rows(seeds=(0, 1, 2))
    sampling = Sampling(max_new_tokens=NEW)
    expected = {r.row_id: r for r in run(Shared(8), requests, sampling=sampling)}
    random.Random(slots).shuffle(requests)
    for part in (requests, requests[:7]):
        for asked, response in zip(part, run(Shared(slots), part, sampling=sampling), strict=True):
            assert response.row_id == asked.row_id
            assert response == expected[asked.row_id]


@settings(deadline=None, max_examples=5)
@given(
    st.sampled_from(["llava", "mllama", "qwen2_5_vl", "paligemma", "clipcap"]),
    st.builds(
        Shape,
        slots=st.integers(1, 20),
        lanes=st.integers(1, 9),
        width=st.integers(1, 24),
        fixed=st.just(True),
        chunk=st.sampled_from([None, 8]),
        window=st.integers(1, 5),
        one_by_one=st.booleans(),
    )
    | st.builds(Shape, slots=st.integers(1, 20), lanes=st.integers(1, 9)),
    st.randoms(use_true_random=False),
)
def test_no_shape_order_length_or_mix_of_directions_changes_an_answer(name, shape, rng):
    """Against the reference engine's answers to each set of directions."""
    lmm, sets = tiny_family_lmm(name), family_sets(name)
    order = [rng.randrange(len(family_rows())) for _ in range(rng.randrange(1, 25))]
    of = tuple(rng.randrange(len(sets)) for _ in order)
    lengths = [rng.randrange(1, NEW + 1) for _ in order]
    edit = Edit(residual=ResidualEdit(sets, of=of))
    engine = Shared(shape.slots)
    with pytest.MonkeyPatch.context() as during:
        during.setattr("lmmsteer.engine.shared.shape_of", lambda *_: shape)
        for _ in range(2):  # Again, with slots and lanes as the first run left them.
            asked = [family_rows()[at] for at in order]
            found = tokens(engine, asked, edit, lmm=lmm, lengths=lengths)
            wanted = [
                family_answers(name, one)[at][:length]
                for one, at, length in zip(of, order, lengths, strict=True)
            ]
            assert found == wanted
            order, of, lengths = order[::-1], of[::-1], lengths[::-1]
            edit = Edit(residual=ResidualEdit(sets, of=of))


def test_a_slot_that_a_long_row_has_left_does_not_outgrow_its_room(monkeypatch):
    shape = Shape(slots=2, lanes=2, width=1, fixed=True, chunk=8, window=3)
    monkeypatch.setattr("lmmsteer.engine.shared.shape_of", lambda *_: shape)
    requests = rows(PICTURES[:1], [PROMPTS[2], PROMPTS[1]])
    whole = tokens(Reference(2), requests, lengths=[NEW, 2 * NEW])
    for long in range(1, NEW + 1):
        found = tokens(Shared(2), requests, lengths=[long, 2 * NEW])
        assert found == [whole[0][:long], whole[1]]


def family_rows():
    return rows(prompts=PROMPTS[:2])


def family_sets(name):
    d_model = tiny_family_lmm(name).d_model
    return torch.stack([torch.zeros(1, d_model), *(orthonormal(s, 1, d_model) for s in (1, 2))])


@cache
def family_answers(name, which):
    edit = Edit(residual=ResidualEdit(family_sets(name)[which]))
    return tokens(Reference(8), family_rows(), edit, lmm=tiny_family_lmm(name), lengths=[NEW] * 8)


def test_a_picture_may_come_back_after_more_others_than_are_prepared_ahead():
    pictures = many()
    ids = list(pictures)[:20]
    requests = rows(ids, PROMPTS[1:2]) * 2
    sets = torch.stack([torch.zeros(1, 32), direction()])
    edit = Edit(residual=ResidualEdit(sets, of=(0,) * 20 + (1,) * 20))
    engine = Shared(8)
    found = tokens(engine, requests, edit, pictures=pictures)
    assert found[:20] == tokens(Reference(8), requests[:20], pictures=pictures)
    steered = Edit(residual=ResidualEdit(direction()))
    assert found[20:] == tokens(Reference(8), requests[:20], steered, pictures=pictures)
    assert engine.stats.encoded == 20


@pytest.mark.parametrize("engine", [Shared, Reference])
def test_forced_lengths_are_exact_whatever_the_model_would_end_with(engine):
    said = {token for answer in unsteered() for token in answer}
    lmm = replace(tiny_lmm(), eos_ids=tuple(said))
    lengths = [1 + 5 * at % 12 for at in range(12)]
    found = run(engine(5), lmm=lmm, lengths=lengths)
    assert [r.token_ids for r in found] == [
        answer[:length] for answer, length in zip(unsteered(), lengths, strict=True)
    ]
    assert {r.finish_reason for r in found} == {"length"}
    assert [r.new_tokens for r in found] == lengths


@pytest.mark.parametrize("engine", [Shared, Reference])
def test_lengths_may_be_longer_than_max_new_tokens(engine):
    found = run(
        engine(5), rows()[:3], sampling=replace(GREEDY, max_new_tokens=2), lengths=[9, 3, 5]
    )
    assert [r.token_ids for r in found] == [
        answer[:length] for answer, length in zip(unsteered(), (9, 3, 5), strict=False)
    ]


@pytest.mark.parametrize("engine", [Shared, Reference])
def test_one_new_token_is_the_first_of_many(engine):
    found = tokens(engine(5), sampling=replace(GREEDY, max_new_tokens=1))
    assert found == [answer[:1] for answer in unsteered()]


def test_no_rows_give_no_responses():
    assert list(Shared(4).generate(tiny_lmm(), [], {}, Edit(), GREEDY)) == []


def test_each_picture_is_encoded_once_each_prefix_and_each_suffix_computed_once():
    requests = rows(seeds=(0, 1, 2))  # 4 pictures x 3 prompts x 3 seeds.
    engine = Shared(6)
    run(engine, requests)
    assert (engine.stats.encoded, engine.stats.prefixes, engine.stats.suffixes) == (4, 4, 12)
    assert engine.stats.rows == 36
    assert engine.stats.tokens == 36 * NEW
    # The first of each row's tokens is the prefill's; none of the others is decoded twice.
    assert engine.stats.busy == 36 * (NEW - 1)
    assert 36 * (NEW - 1) / 6 <= engine.stats.steps < 36 * (NEW - 1) / 6 + NEW
    of = tuple(at % 2 for at in range(36))
    edit = Edit(residual=ResidualEdit(torch.stack([direction(1), direction(2)]), of=of))
    run(engine, requests, edit)
    # Both sets meet every picture and every prompt: 8 prefixes, 24 suffixes; the tower rests.
    assert (engine.stats.encoded, engine.stats.prefixes, engine.stats.suffixes) == (0, 8, 24)


def test_a_generator_left_half_way_does_not_trouble_the_next_run():
    engine = Shared(4)
    running = engine.generate(tiny_lmm(), rows(), photographs(), Edit(), GREEDY)
    for _ in range(2):
        next(running)
    running.close()
    assert tokens(engine) == unsteered()


def test_a_run_does_not_go_on_after_another_has_begun_on_the_same_engine():
    engine = Shared(4)
    first = engine.generate(tiny_lmm(), rows(), photographs(), Edit(), GREEDY)
    assert next(first).token_ids == unsteered()[0]
    assert tokens(engine) == unsteered()
    with pytest.raises(RuntimeError, match="another run has begun"):
        list(first)


def test_another_model_on_the_same_engine_has_its_own_answers():
    other = load("other", str(tiny_llava()))
    with torch.no_grad():
        other.model.lm_head.weight.copy_(other.model.lm_head.weight.roll(1, 0))
    engine = Shared(4)
    assert tokens(engine) == unsteered()
    expected = tokens(Reference(4), lmm=other)
    assert tokens(engine, lmm=other) == expected
    assert expected != unsteered()
