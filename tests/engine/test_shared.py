"""The shared engine on LLaVA: samples, edits, failures, counts and memory."""

import gc
import random
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageOps

from lmmsteer.demo.people import counterfactual_sets, draw
from lmmsteer.engine import prefill
from lmmsteer.engine.edit import Bias, Edit, FeatureEdit, ResidualEdit
from lmmsteer.engine.pictures import FeatureCache
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shape import Shape
from lmmsteer.engine.shared import Shared
from lmmsteer.errors import RunFailed
from lmmsteer.models.lmm import load
from lmmsteer.schema import Request, row_id
from tests.engine.test_hooks import orthonormal
from tests.tiny import photographs, tiny_llava, tiny_lmm
from tests.tiny_families import tiny_family_lmm

NEW = 12
GREEDY = Sampling(temperature=0, max_new_tokens=NEW)
PICTURES = ("astronaut", "cat", "coffee", "rocket")
PROMPTS = (
    "Describe the image in as much detail as possible.",
    "What?",
    "What is the age of the person in the photo? Pretend you are here.",
)


def request(image_id, prompt, seed=0):
    return Request(row_id(image_id, None, prompt, seed), image_id, prompt[:4], prompt, seed)


def rows(image_ids=PICTURES, prompts=PROMPTS, seeds=(0,)):
    return [request(i, prompt, seed) for i in image_ids for prompt in prompts for seed in seeds]


@cache
def many(count=40):
    """Small pictures, all different."""
    whole = [picture.resize((64, 64)) for picture in photographs().values()]
    return {
        f"{n:02d}": ImageOps.posterize(whole[n % 4].rotate(7 * n), 1 + n % 8) for n in range(count)
    }


def run(engine, requests=None, edit=Edit(), sampling=GREEDY, lmm=None, pictures=None, **more):  # noqa: B008
    return list(
        engine.generate(
            lmm or tiny_lmm(), requests or rows(), pictures or photographs(), edit, sampling, **more
        )
    )


def tokens(engine, *args, **named):
    found = run(engine, *args, **named)
    assert [r.error for r in found] == [None] * len(found)
    return [r.token_ids for r in found]


@cache
def unsteered():
    return tokens(Reference(6))


def direction(seed=1, k=1):
    return orthonormal(seed, k, tiny_lmm().d_model)


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


NOTHING = {
    "the empty edit": Edit(),
    "alpha 0": Edit(residual=ResidualEdit(direction(), alpha=0.0)),
    "a zero direction": Edit(residual=ResidualEdit(torch.zeros(1, 32))),
    "zero directions by row": Edit(residual=ResidualEdit(torch.zeros(2, 2, 32), of=(0, 1) * 6)),
    "features as they are": Edit(features=FeatureEdit(torch.ones(32), torch.zeros(32))),
    "no bias": Edit(rules=(Bias(torch.zeros(400)),)),
    "the same prompts": Edit(prompts=tuple(r.prompt for r in rows())),
}


@pytest.mark.parametrize("edit", NOTHING.values(), ids=NOTHING)
@pytest.mark.parametrize("engine", [Shared, Reference])
def test_an_edit_that_changes_nothing_gives_the_unsteered_tokens(engine, edit):
    assert tokens(engine(5), edit=edit) == unsteered()


def test_a_share_of_a_direction_is_removed_as_the_reference_engine_removes_it():
    edit = Edit(residual=ResidualEdit(direction(), alpha=0.5))
    half = tokens(Shared(5), edit=edit)
    assert half == tokens(Reference(5), edit=edit)
    assert half != unsteered()
    assert half != tokens(Shared(5), edit=Edit(residual=ResidualEdit(direction())))


def test_other_prompts_are_shown_and_keep_the_rows_noise():
    requests, sampling = rows(), Sampling(max_new_tokens=NEW)
    edit = Edit(prompts=tuple("Is it day?" for _ in requests))
    moved = [replace(r, prompt="Is it day?") for r in requests]
    assert tokens(Shared(5), edit=edit, sampling=sampling) == tokens(
        Reference(5), moved, sampling=sampling
    )


@pytest.mark.parametrize("sets", [1, 2])
def test_an_edit_is_what_it_was_after_another_has_run_on_the_same_engine(sets):
    engine = Shared(5)
    of = None if sets == 1 else (0, 1) * 6
    made = []
    for seed in (1, 2):
        directions = torch.stack([direction(seed + 10 * n) for n in range(sets)])
        made.append(Edit(residual=ResidualEdit(directions, of=of)))
    expected = [tokens(Shared(5), edit=edit) for edit in made]
    before = [edit.residual.directions.clone() for edit in made]
    assert [tokens(engine, edit=made[at]) for at in (0, 1, 0)] == [*expected, expected[0]]
    for edit, directions in zip(made, before, strict=True):
        assert torch.equal(edit.residual.directions, directions)


def test_a_bias_is_what_it_was_after_another_has_run_on_the_same_engine():
    engine = Shared(5)
    drawn = [3 * torch.randn(400, generator=torch.manual_seed(at)) for at in range(2)]
    made = [Edit(rules=(Bias(bias),)) for bias in drawn]
    expected = [tokens(Shared(5), edit=edit) for edit in made]
    before = [bias.clone() for bias in drawn]
    assert [tokens(engine, edit=made[at]) for at in (0, 1, 0)] == [*expected, expected[0]]
    assert all(torch.equal(new, old) for new, old in zip(drawn, before, strict=True))
    assert tokens(engine) == unsteered()


@pytest.mark.parametrize("of", [(0,), (0,) * 13])
@pytest.mark.parametrize("engine", [Shared, Reference])
def test_sets_for_another_number_of_rows_are_refused(engine, of):
    edit = Edit(residual=ResidualEdit(torch.stack([direction()] * 2), of=of))
    with pytest.raises(ValueError, match=r"residual\.of has"):
        run(engine(5), edit=edit)


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


def test_a_refused_prompt_fails_alone_and_costs_nothing():
    requests = rows()
    requests[3] = replace(requests[3], prompt="What is <image>?")
    engine = Shared(5)
    found = run(engine, requests)
    assert found[3].error_kind == "prompt_refused"
    assert found[3].text is None
    kept = [r.token_ids for r in found[:3] + found[4:]]
    assert kept == unsteered()[:3] + unsteered()[4:]
    assert engine.stats.suffixes == 11
    assert [r.error_kind for r in run(engine, [requests[3]] * 2)] == ["prompt_refused"] * 2


def broken(token):
    """The tiny LLaVA with an embedding of one token that is not a number."""
    lmm = load("broken", str(tiny_llava()))
    with torch.no_grad():
        lmm.model.get_input_embeddings().weight[token] = torch.nan
    return lmm


def mend(lmm, token):
    with torch.no_grad():
        whole = tiny_lmm().model.get_input_embeddings().weight
        lmm.model.get_input_embeddings().weight[token] = whole[token]


def told_once():
    """A token that one row says in its middle, which no prompt holds; the row and the step."""
    shown = {t for prompt in PROMPTS for t in tiny_lmm().token_ids(prompt, 1)}
    for row, answer in enumerate(unsteered()):
        others = {t for other in unsteered()[:row] + unsteered()[row + 1 :] for t in other}
        for step, token in enumerate(answer[:-2]):
            if step >= 2 and token not in others | shown and answer.index(token) == step:
                return token, row, step
    raise AssertionError("no such token")


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("slots", [3, 16])
def test_a_row_that_stops_being_finite_fails_at_that_step_and_alone(slots, strict):
    token, row, step = told_once()
    lmm = broken(token)
    engine = Shared(slots)
    if strict:
        engine = Shared(slots, strict=True)
        tokens(engine, rows()[:1], lmm=lmm, lengths=[1])  # The self-test says that token too.
    found = run(engine, lmm=lmm)
    assert [at for at, r in enumerate(found) if r.error_kind] == [row]
    assert found[row].error_kind == "nonfinite"
    assert found[row].error == f"the logits at step {step + 1} are not finite"
    assert found[row].token_ids is None
    healthy = [r.token_ids for at, r in enumerate(found) if at != row]
    assert healthy == unsteered()[:row] + unsteered()[row + 1 :]
    mend(lmm, token)
    assert tokens(engine, lmm=lmm) == unsteered()
    assert tokens(engine, rows()[::-1], lmm=lmm) == unsteered()[::-1]


def test_a_prompt_that_is_not_finite_fails_on_every_picture_and_alone():
    own = set(tiny_lmm().token_ids(PROMPTS[2], 1))
    others = {t for prompt in PROMPTS[:2] for t in tiny_lmm().token_ids(prompt, 1)}
    said = {t for answer in unsteered() for t in answer}
    token = min(own - others - said)
    lmm, engine = broken(token), Shared(7)
    found = run(engine, lmm=lmm)
    assert [r.error_kind for r in found] == [None, None, "nonfinite"] * 4
    healthy = [answer for at, answer in enumerate(unsteered()) if at % 3 != 2]
    assert [r.token_ids for r in found if not r.error] == healthy
    mend(lmm, token)
    assert tokens(engine, lmm=lmm) == unsteered()


def test_what_is_not_finite_does_not_reach_rows_that_join_idle_slots(monkeypatch):
    shape = Shape(8, 8, 8, fixed=True, window=4)
    monkeypatch.setattr("lmmsteer.engine.shared.shape_of", lambda *_: shape)
    token, row, _ = told_once()
    lmm, engine = broken(token), Shared(8)
    ordered = [rows()[row], *rows()[:row], *rows()[row + 1 :]]  # In slot 0 it is read by idle ones.
    found = run(engine, ordered[:1], lmm=lmm)
    assert found[0].error_kind == "nonfinite"
    mend(lmm, token)
    for _, key in engine._slots.own.kept.items():
        assert all(torch.isfinite(store).all() for store in key)
    for store in engine._slots.lanes.kept.values():
        assert all(torch.isfinite(part).all() for part in store)
    assert tokens(engine, ordered, lmm=lmm) == [
        unsteered()[row],
        *unsteered()[:row],
        *unsteered()[row + 1 :],
    ]


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


def test_a_feature_edit_runs_no_vision_tower_again_and_does_not_stay():
    engine = Shared(6)
    run(engine)
    edit = Edit(features=FeatureEdit(torch.zeros(32), torch.ones(32)))
    found = run(engine, edit=edit)
    assert engine.stats.encoded == 0
    assert len({tuple(r.token_ids) for r in found}) == 3  # All pictures look alike.
    assert tokens(engine) == unsteered()
    assert engine.stats.encoded == 0


def test_without_room_for_features_the_tower_runs_again():
    engine = Shared(6, cache=FeatureCache(0))
    for _ in range(2):
        assert tokens(engine) == unsteered()
        assert engine.stats.encoded == 4


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


def held(engine):
    """Bytes of lanes, slots and features."""
    stores = [*engine._slots.lanes.kept.values(), *engine._slots.own.kept.values()]
    return sum(store.nbytes for pair in stores for store in pair), engine.cache.size


def tensor_bytes():
    gc.collect()
    alive = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}.values()
    )


@pytest.mark.parametrize("strict", [False, True])
def test_memory_does_not_grow_over_runs(strict):
    pictures, engine = many(), Shared(16, strict=strict)
    requests = rows(pictures, PROMPTS[:2])
    sampling = replace(GREEDY, max_new_tokens=6)
    sizes, alive = [], []
    for _ in range(3):
        run(engine, requests, sampling=sampling, pictures=pictures)
        sizes.append(held(engine))
        alive.append(tensor_bytes())
    assert sizes[0] == sizes[1] == sizes[2]
    assert alive[2] <= alive[1]
    assert engine.cache.size == 40 * 16 * 32 * 4  # 16 patches of 32 float32 for each picture.


def test_own_memory_follows_the_answers_and_not_their_limit():
    engine = Shared(4)
    token = unsteered()[0][2]
    lmm = replace(tiny_lmm(), eos_ids=(token,))
    asked = rows()[:1]
    run(engine, asked, sampling=replace(GREEDY, max_new_tokens=400), lmm=lmm)
    assert engine._slots.own.room <= 2 * engine._slots.own.STEP
    run(engine, asked, lengths=[200])
    assert 200 < engine._slots.own.room <= 400


def running_out(monkeypatch, when):
    """The device's memory ends in a prefill call for which `when(slots, calls before)`."""
    calls, inner = [], prefill.Prefill.run

    def fail(self, groups, directions):
        calls.append(1)
        if when(self.slots_of, len(calls) - 1):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return inner(self, groups, directions)

    made = prefill.Prefill.__init__

    def init(self, slots, *args):
        made(self, slots, *args)
        self.slots_of = slots.shape.slots

    monkeypatch.setattr(prefill.Prefill, "__init__", init)
    monkeypatch.setattr(prefill.Prefill, "run", fail)


def test_where_memory_does_not_suffice_half_the_slots_are_tried_and_noted(monkeypatch):
    running_out(monkeypatch, lambda slots, _: slots > 4)
    engine = Shared(16)
    assert tokens(engine) == unsteered()
    assert engine.stats.slots == 4
    assert engine.stats.fallback == (16, 8)


def test_where_no_slots_fit_the_run_fails_and_names_the_key(monkeypatch):
    running_out(monkeypatch, lambda *_: True)
    with pytest.raises(RunFailed, match=r"does not suffice for 4 slots.*\n.*engine\.slots=2"):
        run(Shared(8))


def test_memory_that_ends_in_the_middle_fails_the_run_and_leaves_an_engine_that_works(monkeypatch):
    engine = Shared(4)
    with monkeypatch.context() as during:
        running_out(during, lambda _, calls: calls == 1)
        running = engine.generate(tiny_lmm(), rows(), photographs(), Edit(), GREEDY)
        assert next(running).token_ids == unsteered()[0]
        with pytest.raises(RunFailed, match=r"4 slots.*\n.*engine\.slots=2"):
            list(running)
    assert tokens(engine) == unsteered()


def test_slots_are_chosen_once_and_the_arithmetic_is_told():
    engine = Shared()
    run(engine, rows()[:1])
    first = engine.stats
    run(engine)
    assert engine.stats.slots == first.slots == 64
    assert engine.stats.why == first.why
    assert first.why.startswith("64 slots: ")
