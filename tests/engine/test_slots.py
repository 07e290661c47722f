"""Slots as accelerators drive them: recorded steps and windows, with a stand-in for the card."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from lmmsteer.engine import slots as module
from lmmsteer.engine.edit import Adjustment, Bias, Contrast, Edit, Phrases, ResidualEdit
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.rows import Group, Place, Ready, Row, Suffix
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shape import Shape
from lmmsteer.engine.shared import Shared
from lmmsteer.engine.slots import Slots
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import load
from lmmsteer.schema import Request, row_id
from tests.engine.test_families import NEW, ablation, expected, rows
from tests.engine.test_hooks import orthonormal
from tests.engine.test_rules import Parity
from tests.tiny import photographs
from tests.tiny_families import NAMES, tiny_family, tiny_family_lmm

ALL = ["llava", *(name for name in NAMES if name != "paligemma2")]
GREEDY = Sampling(temperature=0, max_new_tokens=NEW)


class Recorded(module.Captured):
    """A graph's replay: the step again, without hooks noticing; refused if memory has moved."""

    counts: ClassVar[dict[str, int]] = {}

    def memory(self):
        made = self.slots
        pairs = [*made.own.kept.values(), *made.lanes.kept.values()]
        tensors = [store for pair in pairs for store in pair]
        tensors += [*made.lanes.cross.values(), made.lanes.lengths, *self.state()]
        tensors += [made._groups.rows, made._groups.back]
        tensors += made.rules.memories + [x for x in made.rules.numbers if x is not None]
        tensors += [rule.bias for rule in made.rules.rules if isinstance(rule, Bias)]
        return [tensor.data_ptr() for tensor in tensors]

    def _record(self):
        before = [tensor.clone() for tensor in self.state()]
        for _ in range(2):  # As on a card: warm-up, and then what is recorded.
            result = self.step()
            self.restore(before)
        memory = self.memory()
        self.counts["recorded"] += 1
        captured = self

        class Graph:
            def replay(self):
                assert captured.memory() == memory
                captured.counts["replayed"] += 1
                result.copy_(captured.step())

        return Graph(), result


@pytest.fixture
def card(monkeypatch):
    """Shared drives its slots as on a card: calls of one shape, recorded, four steps at once."""
    init = Slots.__init__

    def as_on_a_card(self, lmm, decoding, shape):
        init(self, lmm, decoding, shape)
        self._graphs = self.own.by_token = True
        self._captured.slots = self

    def shape(lmm, slots, strict, requests, streams=1):
        return Shape(slots, slots + 2, min(slots, 16), fixed=True, window=4)

    monkeypatch.setattr(module, "Captured", Recorded)
    monkeypatch.setattr(Slots, "__init__", as_on_a_card)
    monkeypatch.setattr("lmmsteer.engine.shared.shape_of", shape)
    monkeypatch.setattr(Recorded, "counts", {"recorded": 0, "replayed": 0})
    return Recorded.counts


def told(engine, lmm, edit=Edit(), requests=None, sampling=GREEDY):  # noqa: B008
    found = list(engine.generate(lmm, requests or rows(), photographs(), edit, sampling))
    assert [r.error for r in found] == [None] * len(found)
    return [r.token_ids for r in found]


@pytest.mark.parametrize("name", ALL)
def test_recorded_steps_give_the_answers_of_plain_transformers(name, card):
    lmm, engine = tiny_family_lmm(name), Shared(5)
    for _ in range(2):
        assert told(engine, lmm) == expected(name, 0)
    assert card["replayed"] > 4 * card["recorded"] > 0
    if name != "blip":
        assert told(engine, lmm, ablation(name, 2)[1]) == expected(name, 2)
        assert told(engine, lmm, ablation(name, 1)[1]) == expected(name, 1)
        assert told(engine, lmm) == expected(name, 0)


def test_directions_of_one_structure_are_exchanged_under_a_recorded_step(card):
    lmm, engine = tiny_family_lmm("llava"), Shared(5)
    first, second = (Edit(residual=ResidualEdit(orthonormal(s, 1, 32))) for s in (1, 2))
    wanted = [told(Reference(9), lmm, edit) for edit in (first, second)]
    assert told(engine, lmm, first) == wanted[0]
    before = card["recorded"]
    assert told(engine, lmm, second) == wanted[1]
    assert card["recorded"] == before
    sets = torch.stack([e.residual.directions for e in (first, second)])
    for of in ((0, 1) * 4 + (0,), (1, 1, 0) * 3):
        mixed = told(engine, lmm, Edit(residual=ResidualEdit(sets, of=of)))
        assert mixed == [wanted[which][row] for row, which in enumerate(of)]


def test_a_bias_is_exchanged_under_a_recorded_step(card):
    lmm, engine = tiny_family_lmm("llava"), Shared(5)
    for seed in range(2):
        bias = 3 * torch.randn(400, generator=torch.Generator().manual_seed(seed))
        edit = Edit(rules=(Bias(bias),))
        before = card["recorded"]
        assert told(engine, lmm, edit) == told(Reference(9), lmm, edit)
    assert card["recorded"] == before


def test_rules_that_remember_are_put_back_after_warm_up_and_exchanged(card):
    lmm, engine = tiny_family_lmm("llava"), Shared(5)
    plain = told(Reference(9), lmm, Edit())
    bad = [tokens[at : at + 3] for tokens in plain for at in (0, 2)]
    phrases = Phrases(torch.tensor([b for b in bad if len(b) == 3]), float("inf"))
    beta = torch.rand(400, generator=torch.Generator().manual_seed(3)) * 2 - 1
    parity = Adjustment(beta, torch.tensor([0.5]), Parity(torch.tensor(1.0)), 6.0, 0.2)
    edits = [Edit(rules=(phrases,)), Edit(rules=(parity,)), Edit()]
    wanted = [told(Reference(9), lmm, edit) for edit in edits]
    assert [told(engine, lmm, edit) for edit in edits] == wanted
    before = card["recorded"]
    assert [told(engine, lmm, edit) for edit in edits[::-1]] == wanted[::-1]
    assert card["recorded"] == before  # Each kind of rules keeps its memory and its graphs.
    both = Edit(rules=(phrases, parity), contrast=Contrast(beta=0.0))
    assert told(engine, lmm, both) == told(Reference(9), lmm, both)


@pytest.mark.parametrize("name", ["llava", "mllama", "paligemma", "blip"])
def test_memory_that_moves_is_never_replayed(name, card):
    """A longer prompt, a longer answer and, for some, a larger picture come later."""
    lmm, engine = tiny_family_lmm(name), Shared(2)
    prompts = (
        "What?",
        "What is the age of the person in the photo? " * (3 if name == "blip" else 9),
    )
    small, large = "cat", "astronaut"  # Of one tile and of four.
    order = [
        Request(row_id(image_id, None, prompt, 0), image_id, "p", prompt, 0)
        for image_id, prompt in ((small, prompts[0]), (small, prompts[1]), (large, prompts[0]))
    ]
    for part in (order[:1], order, order[::-1]):
        assert told(engine, lmm, requests=part) == told(Reference(3), lmm, requests=part)
    longer = Sampling(temperature=0, max_new_tokens=90 if name == "blip" else 150)
    if name == "blip":
        order = [order[0], order[2]]
    assert told(engine, lmm, requests=order, sampling=longer) == told(
        Reference(3), lmm, requests=order, sampling=longer
    )


def test_ties_beyond_the_candidates_are_drawn_again_over_all_tokens(card):
    lmm = load("tied", str(tiny_family("llava")))
    with torch.no_grad():  # Forty tokens at a time have one and the same logit.
        head = lmm.model.lm_head.weight
        head.copy_(head[torch.arange(len(head)) // 40 * 40])
    sampling = Sampling(top_k=3, max_new_tokens=NEW)
    assert told(Shared(5), lmm, sampling=sampling) == told(Reference(9), lmm, sampling=sampling)


def test_what_a_row_says_behind_its_end_is_thrown_away_and_its_slot_begins_anew(card):
    lmm, whole = tiny_family_lmm("llava"), expected("llava", 0)
    ends = {whole[0][2], whole[4][4]}
    ended = replace(lmm, eos_ids=tuple(ends))
    cut = [next((t[:at] for at, token in enumerate(t) if token in ends), t) for t in whole]
    assert told(Shared(3), ended) == cut


def ready(row, suffix, directions=0):
    request = Request(row_id(str(row), None, "p", 0), str(row), "p", "p", 0)
    group = Group(str(row), directions, lane=row)
    row = Row(row, request, "p", directions, 9)
    return Ready(row, 1, False, [Place(group, suffix, 3)])


def test_rows_stand_in_front_after_packing_with_all_that_is_theirs():
    lmm = tiny_family_lmm("llava")
    slots = Slots(lmm, DECODING["llava"], Shape(4, 4))
    slots.begin(Edit(), GREEDY, None)
    key = torch.arange(4.0)[:, None, None, None].expand(4, 2, 3, 8)
    suffixes = [Suffix(None, "p", (5, 6, 7), None, {0: (key, -key)}, at) for at in range(4)]
    slots.join([ready(at, suffix, at) for at, suffix in enumerate(suffixes)])
    assert (slots.busy, slots.free, slots.size) == (4, 0, 4)
    assert slots.directions() == [0, 1, 2, 3]
    for slot in (0, 2):
        slots.active[slot] = None
    slots.pack()
    assert (slots.busy, slots.free, slots.size) == (2, 2, 2)
    assert slots.directions() == [3, 1]
    assert sorted(slots.held()) == [1, 3]
    assert slots.own.kept[0][0][:2, 0, 0, 0].tolist() == [3.0, 1.0]
    assert slots.own.kept[0][1][:2, 1, 2, 7].tolist() == [-3.0, -1.0]
    slots.join([ready(0, suffixes[2])])
    assert slots.own.kept[0][0][:3, 0, 0, 0].tolist() == [3.0, 1.0, 2.0]


def test_with_calls_of_one_shape_rows_stay_where_they_are():
    lmm = tiny_family_lmm("llava")
    slots = Slots(lmm, DECODING["llava"], Shape(4, 4, 4, fixed=True))
    slots.begin(Edit(), GREEDY, None)
    suffix = Suffix(None, "p", (5, 6, 7), None, {}, 0)
    slots.join([ready(at, suffix, at + 1) for at in range(3)])
    slots.active[0] = None
    slots.pack()
    assert (slots.busy, slots.size) == (2, 4)
    assert slots.directions() == [0, 2, 3, 0]


def test_a_new_run_begins_with_empty_slots():
    lmm = tiny_family_lmm("llava")
    slots = Slots(lmm, DECODING["llava"], Shape(4, 4))
    slots.begin(Edit(), GREEDY, None)
    slots.join([ready(0, Suffix(None, "p", (5,), None, {}, 0))])
    slots.begin(Edit(), GREEDY, None)
    assert (slots.busy, slots.held()) == (0, {})
