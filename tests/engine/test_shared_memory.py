"""The shared engine's memory: what it keeps, and what it does where there is not enough."""

import gc
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from lmmsteer.engine import prefill, shape
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.pictures import FeatureCache
from lmmsteer.engine.shared import Shared
from lmmsteer.engine.store import Own
from lmmsteer.errors import RunFailed
from tests.engine.runs import (
    GREEDY,
    PROMPTS,
    many,
    request,
    rows,
    run,
    tokens,
    unsteered,
)
from tests.tiny import photographs, tiny_lmm


def test_decode_steps_read_the_copies_of_weights_and_strict_ones_the_weights():
    head = tiny_lmm().model.get_output_embeddings()
    engine, strict = Shared(6), Shared(6, strict=True)
    assert tokens(engine) == tokens(strict) == unsteered()
    assert strict._copies is None
    engine._copies.of(head).zero_()  # Spoilt, as nobody would: what is read shows.
    assert tokens(engine) != unsteered()
    engine.forget()
    assert engine._copies is None
    assert tokens(engine) == unsteered()


def test_weights_that_are_too_large_for_the_memory_are_not_copied(monkeypatch):
    monkeypatch.setattr(shape, "QUARTER", 0.0)
    engine = Shared(6)
    assert tokens(engine) == unsteered()
    assert engine._copies is None


@pytest.mark.parametrize("strict", [False, True])
def test_rows_own_keys_may_take_at_once_what_is_spare_and_in_strict_mode_nothing(strict):
    engine, spare = Shared(6, strict=strict), shape.spare(tiny_lmm())
    assert tokens(engine) == unsteered()
    assert spare > 0
    assert engine._slots.own.large == (0 if strict else spare // (2 * tiny_lmm().n_layers))


def test_without_room_for_features_the_tower_runs_again():
    engine = Shared(6, cache=FeatureCache(0))
    for _ in range(2):
        assert tokens(engine) == unsteered()
        assert engine.stats.encoded == 4


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


def test_a_row_keeps_what_it_said_where_memory_moves_behind_a_hole():
    """The first slots are free again when a longer prompt wants more room than was reserved."""
    wordy = "What is this? " * 40
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[1], wordy, PROMPTS[1], wordy]
    asked = [request("cat", text, seed) for seed, text in enumerate(prompts)]
    lengths = [3, 3, 60, 20, 20, 20]
    alone = [
        run(Shared(1), [one], lengths=[n])[0].token_ids
        for one, n in zip(asked, lengths, strict=True)
    ]
    engine, rooms, ensure = Shared(3), [], Own.ensure

    def watched(own, count):
        ensure(own, count)
        rooms.append((own.room, own.used))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Own, "ensure", watched)
        found = run(engine, asked, lengths=lengths)
    assert [one.token_ids for one in found] == alone
    assert any(now[0] > before[0] and now[1] == 3 for before, now in pairwise(rooms))


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
