"""First-token probabilities against transformers' own forward with hooks written out."""

from __future__ import annotations

import pytest
import torch

from lmmsteer.engine.edit import Bias, Edit, ResidualEdit
from lmmsteer.engine.first_token import Sums, watch
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from tests.engine.oracle import hook_ablation, inputs, plain
from tests.engine.runs import PICTURES, PROMPTS, direction, rows
from tests.tiny import photographs, tiny_llava, tiny_lmm

ENGINES = {"shared": Shared(6), "strict": Shared(16, strict=True), "reference": Reference(5)}


def seen(engine, edit: Edit) -> Sums:
    requests = rows()
    sums = Sums(len(PICTURES), tiny_lmm().vocab_size)
    at = [PICTURES.index(request.image_id) for request in requests]
    sampling = Sampling(temperature=0.75, max_new_tokens=99)
    watch(engine, tiny_lmm(), requests, photographs(), edit, sampling, at, sums)
    return sums


def expected(directions: torch.Tensor | None) -> torch.Tensor:
    """[pictures, vocab], one row at a time through transformers."""
    model, processor = plain(tiny_llava())
    handles = [] if directions is None else hook_ablation(model, directions)
    found = []
    with torch.no_grad():
        for image_id in PICTURES:
            logits = [
                model(**inputs(processor, prompt, photographs()[image_id])).logits[0, -1]
                for prompt in PROMPTS
            ]
            found.append(torch.stack(logits).softmax(-1).sum(0))
    for handle in handles:
        handle.remove()
    return torch.stack(found)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("steered", [False, True])
def test_they_are_those_of_transformers_forward(name: str, steered: bool) -> None:
    directions = direction() if steered else None
    edit = Edit() if directions is None else Edit(residual=ResidualEdit(directions))
    found = seen(ENGINES[name], edit)
    assert found.rows.tolist() == [len(PROMPTS)] * len(PICTURES)
    torch.testing.assert_close(found.sums, expected(directions), atol=2e-5, rtol=1e-4)


def test_they_are_taken_behind_the_edits_own_rules() -> None:
    bias = torch.zeros(tiny_lmm().vocab_size)
    bias[7] = -torch.inf
    found = seen(Shared(6), Edit(rules=(Bias(bias),)))
    plainly = seen(Shared(6), Edit())
    assert not found.sums[:, 7].any()
    torch.testing.assert_close(found.sums.sum(1), torch.full((len(PICTURES),), 3.0))
    rest = plainly.sums[:, 7].sum()
    assert rest > 0


def test_rows_whose_logits_are_not_finite_are_left_out_and_not_counted() -> None:
    sums = Sums(2, 3)
    logits = torch.tensor([[0.0, 0.0, -torch.inf], [torch.nan, 0.0, 0.0], [-torch.inf] * 3])
    sums.add(logits, torch.tensor([1, 0, 0]))
    assert sums.sums.tolist() == [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
    assert sums.rows.tolist() == [0, 1]
