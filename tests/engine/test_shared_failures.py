"""Rows of the shared engine that fail, and their neighbours that do not."""

from dataclasses import replace

import pytest
import torch

from lmmsteer.engine.shape import Shape
from lmmsteer.engine.shared import Shared
from lmmsteer.models.lmm import load
from tests.engine.runs import PROMPTS, rows, run, tokens, unsteered
from tests.tiny import tiny_llava, tiny_lmm


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
    shown = {t for prompt in PROMPTS for t in tiny_lmm().token_ids(prompt, "<image>")}
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
    own = set(tiny_lmm().token_ids(PROMPTS[2], "<image>"))
    others = {t for prompt in PROMPTS[:2] for t in tiny_lmm().token_ids(prompt, "<image>")}
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
