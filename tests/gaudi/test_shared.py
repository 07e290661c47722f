"""engine=shared on Gaudi cards: transformers' own models, the step an HPU graph."""

import os

import pytest
import torch

from lmmsteer import device
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from lmmsteer.models.decoding import DECODING
from tests.gaudi import cases

NAMES = ("llava", "mllama", "qwen2_5_vl")
# Of those that transformers 4.55 has; PaliGemma 2's tiny model has too short a window.
OTHERS = (
    "paligemma",
    "blip",
    "clipcap",
    "gemma3",
    "llava_onevision",
    "internvl",
    "smolvlm",
)


@pytest.fixture(scope="module", params=NAMES)
def models(request, tmp_path_factory, stand_in):
    """One model on the stand-in card, and on a processor."""
    folder = cases.save(request.param, tmp_path_factory.mktemp("model") / request.param)
    assert device.detect("hpu").lazy
    kinds = ("hpu", "cpu")
    return [cases.opened(request.param, folder, kind) for kind in kinds]


@pytest.mark.parametrize("mode", ["lazy", "compile"])
def test_the_card_says_what_transformers_says_steered_and_not_greedy_and_sampled(
    models, mode, monkeypatch
):
    on_card, plain = models
    monkeypatch.setenv("PT_HPU_LAZY_MODE", "1" if mode == "lazy" else "0")
    monkeypatch.setenv(device.COMPILING, "1")
    assert on_card.device.mode == mode
    engine, found, graphs = Shared(16), {}, []
    for name, edit in cases.edits(on_card).items():
        for sampling, made in cases.SAMPLINGS.items():
            found[f"{name} {sampling}"] = cases.answers(engine, on_card, edit, made)
            graphs.append(engine.stats.graphs)
            assert engine.stats.compiled == engine.stats.graphs == engine.stats.warmed
            assert bool(engine.stats.warm) == bool(engine.stats.graphs)
            assert not engine._slots._captured.failed
            assert engine.stats.prefixes == 3  # The run's own, no more.
    assert found == cases.expected(plain)
    # A step has one set of shapes: one graph for each structure, none for other directions.
    assert graphs == [1, 1, 1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_in_bfloat16_rounding_alone_tells_answers_apart(name, tmp_path):
    folder, engine = cases.save(name, tmp_path / name), Shared(16)
    found = cases.halves(engine, cases.opened(name, folder, "hpu", dtype="bfloat16"))
    assert not engine._slots._captured.failed
    assert {key.dtype for key, _ in engine._slots.own.kept.values()} == {torch.bfloat16}
    cases.check_halves(name, folder, found)


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_family_says_on_the_card_what_transformers_says(name, tmp_path):
    folder = cases.save(name, tmp_path / name)
    on_card, plain = (cases.opened(name, folder, kind) for kind in ("hpu", "cpu"))
    engine, biased = Shared(16), cases.biased(plain)
    for sampling in cases.SAMPLINGS.values():
        expected = cases.answers(Reference(8), plain, biased, sampling)
        assert cases.answers(engine, on_card, biased, sampling) == expected
        assert engine.stats.graphs == 1


def test_every_length_that_rows_may_come_to_is_recorded_before_the_first_answer(models):
    on_card, _ = models
    engine = Shared(16)
    longer = Sampling(temperature=0, max_new_tokens=200)  # Behind a prompt: two blocks of 128.
    lengths = [3] * len(cases.rows())
    from tests.tiny import photographs

    given = (on_card, cases.rows(), photographs(), cases.Edit(), longer)
    assert len(list(engine.generate(*given, lengths=lengths))) == len(lengths)
    assert engine.stats.graphs == 1  # No row may come to more than three tokens.
    next(iter(engine.generate(*given)))
    assert engine.stats.graphs >= 1
    assert len(engine._slots._captured._graphs) == 2


def test_no_call_has_a_shape_that_warm_up_has_not_seen(models):
    on_card, _ = models
    engine, before, after = Shared(4), set(), set()

    def look(module, args, kwargs):
        given = kwargs.get("inputs_embeds", kwargs.get("input_ids"))
        (after if engine.stats.warm else before).add(tuple(given.shape))

    hook = DECODING[on_card.family.name].decoder(on_card)
    handle = hook.register_forward_pre_hook(look, with_kwargs=True)
    try:
        cases.answers(engine, on_card, cases.Edit(), cases.SAMPLINGS["greedy"])
    finally:
        handle.remove()
    assert after
    assert after <= before


def test_in_eager_mode_nothing_is_recorded_and_nothing_changes(models, monkeypatch):
    on_card, _ = models
    lazy = cases.answers(Shared(16), on_card, cases.Edit(), cases.SAMPLINGS["sampled"])
    monkeypatch.setitem(os.environ, "PT_HPU_LAZY_MODE", "0")
    engine = Shared(16)
    assert cases.answers(engine, on_card, cases.Edit(), cases.SAMPLINGS["sampled"]) == lazy
    assert engine.stats.graphs == 0
