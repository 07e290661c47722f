"""A step that a card records and replays must not ask its tensors anything, whatever the model."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lmmsteer.engine.edit import Bias, Edit, ResidualEdit
from lmmsteer.engine.shared import Shared
from lmmsteer.engine.slots import Slots
from tests.engine.test_hooks import orthonormal
from tests.engine.test_shared_families import ALL, told
from tests.tiny_families import tiny_family_lmm

ATEN = torch.ops.aten
ASKING = {
    ATEN._local_scalar_dense.default,
    ATEN.item.default,
    ATEN.is_nonzero.default,
    ATEN.nonzero.default,
    ATEN.masked_select.default,
    ATEN.equal.default,
}


class Listening(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in ASKING:
            self.asked.append(str(func))
        return func(*args, **(kwargs or {}))


def edits(lmm):
    yield Edit(rules=(Bias(torch.linspace(-1, 1, lmm.vocab_size)),))
    if lmm.family.pre_norm_residual:
        yield Edit(residual=ResidualEdit(orthonormal(1, 1, lmm.d_model)))


@pytest.mark.parametrize("name", ALL)
def test_a_step_asks_no_tensor_anything(name, monkeypatch):
    lmm, step, listening = tiny_family_lmm(name), Slots._token, Listening()

    def recorded(slots, *, exact):
        with listening:
            return step(slots, exact=False)

    monkeypatch.setattr(Slots, "_token", recorded)
    for edit in edits(lmm):
        told(Shared(16, strict=True), name, edit, lmm=lmm)
    assert listening.asked == []


def test_what_listens_hears_questions_in_inference_mode_too():
    with torch.inference_mode(), Listening() as listening:
        assert bool(torch.ones(1) > 0)
        assert torch.ones(1).item()
    assert len(listening.asked) == 2
