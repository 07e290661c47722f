from dataclasses import replace

import pytest
import torch

from lmmsteer.engine.cache import ROOM, growing_cache
from lmmsteer.engine.edit import Edit, ResidualEdit
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.models.lmm import load
from lmmsteer.schema import Request, row_id
from tests.engine import oracle
from tests.tiny import photographs, save_tiny_llava, tiny_llava, tiny_lmm

PROMPTS = {
    "describe": "Describe the image in as much detail as possible.",
    "what": "What?",
    "age": "What is the age of the person in the photo? Pretend you are here.",
}
NEW = 12


def rows(seeds=(0,)):
    return [
        Request(row_id(image_id, None, text, seed), image_id, prompt_id, text, seed)
        for image_id in photographs()
        for prompt_id, text in PROMPTS.items()
        for seed in seeds
    ]


def answers(requests, edit=Edit(), sampling=None, slots=5, lmm=None):  # noqa: B008
    sampling = sampling or Sampling(temperature=0, max_new_tokens=NEW)
    lmm = lmm or tiny_lmm()
    return list(Reference(slots).generate(lmm, requests, photographs(), edit, sampling))


def ending(edit):
    """A token that ends some greedy answers early when it is made the end of sequence."""
    tokens = [r.token_ids for r in answers(rows(), edit)]
    return next(t for t in tokens[0][3:] if any(t not in other for other in tokens))


@pytest.mark.parametrize("ablated", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_greedy_answers_are_those_of_plain_transformers_row_by_row(ablated, ends):
    direction = torch.nn.functional.normalize(torch.arange(32.0)[None] - 11, dim=-1)
    model, processor = oracle.plain(tiny_llava())
    edit = Edit(residual=ResidualEdit(direction)) if ablated else Edit()
    eos_ids = (2, ending(edit)) if ends else (2,)
    if ablated:
        oracle.hook_ablation(model, direction)
    found = answers(rows(), edit, lmm=replace(tiny_lmm(), eos_ids=eos_ids))
    assert len({tuple(r.token_ids) for r in found}) > 6
    for request, response in zip(rows(), found, strict=True):
        picture = photographs()[request.image_id]
        expected = oracle.greedy(model, processor, request.prompt, picture, NEW, eos_ids)
        assert response.token_ids == expected
        assert (
            response.text == processor.tokenizer.decode(expected, skip_special_tokens=True).strip()
        )
        assert response.new_tokens == len(expected)
        assert response.finish_reason == ("length" if len(expected) == NEW else "eos")
    assert not ends or any(r.finish_reason == "eos" for r in found)


def test_responses_come_in_the_order_of_the_requests_with_their_identity():
    requests = rows(seeds=(0, 1))[::-1]
    for request, response in zip(requests, answers(requests), strict=True):
        for name in ("row_id", "image_id", "prompt_id", "seed"):
            assert getattr(response, name) == getattr(request, name)


def test_sampled_answers_do_not_depend_on_companions_order_or_batch_size():
    requests, sampling = rows(seeds=(0, 1, 2)), Sampling(max_new_tokens=NEW)
    together = {r.row_id: r.token_ids for r in answers(requests, sampling=sampling, slots=7)}
    assert len({tuple(tokens) for tokens in together.values()}) > len(requests) * 0.8
    for part, slots in ((requests[::-1], 36), (requests[5:17], 4), (requests[20:21], 1)):
        for response in answers(part, sampling=sampling, slots=slots):
            assert response.token_ids == together[response.row_id]


def test_a_changed_prompt_keeps_the_rows_noise_and_an_equal_prompt_its_answer():
    requests, sampling = rows(), Sampling(max_new_tokens=NEW)
    same = Edit(prompts=tuple(request.prompt for request in requests))
    assert answers(requests, same, sampling) == answers(requests, sampling=sampling)
    other = Edit(prompts=tuple("Is it day?" for _ in requests))
    moved = [replace(request, prompt="Is it day?") for request in requests]
    assert answers(requests, other, sampling) == answers(moved, sampling=sampling)


def test_a_row_with_the_pictures_placeholder_in_its_prompt_fails_alone():
    requests = rows()
    requests[3] = replace(requests[3], prompt="What is <image>?")
    found = answers(requests)
    assert found[3].error_kind == "prompt_refused"
    assert found[3].text is None
    assert found[3].token_ids is None
    expected = answers(rows())
    assert found[:3] + found[4:] == expected[:3] + expected[4:]


@pytest.mark.parametrize("step", [0, 4])
def test_a_row_with_logits_that_are_not_finite_fails_alone(step):
    expected = answers(rows(), slots=64)
    calls = []

    def poison(_, args, logits):
        calls.append(1)
        if len(calls) == step + 1:
            logits[2, -1, 7] = torch.nan
        return logits

    handle = tiny_lmm().model.lm_head.register_forward_hook(poison)
    try:
        found = answers(rows(), slots=64)
    finally:
        handle.remove()
    failed = [r for r in found if r.error_kind]
    assert [r.error_kind for r in failed] == ["nonfinite"]
    assert failed[0].text is None
    assert str(step) in failed[0].error
    healthy = [(r, e) for r, e in zip(found, expected, strict=True) if not r.error_kind]
    assert all(r == e for r, e in healthy)


def test_a_checkpoints_own_sampling_and_penalties_do_not_enter(tmp_path):
    folder = save_tiny_llava(tmp_path)
    (folder / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 9.0, "repetition_penalty": 5.0, "top_k": 3, '
        '"no_repeat_ngram_size": 1, "max_length": 7, "eos_token_id": [2, 5], "pad_token_id": 0}'
    )
    lmm = load("tiny", str(folder))
    assert lmm.eos_ids == (2, 5)
    assert answers(rows(), lmm=replace(lmm, eos_ids=(2,))) == answers(rows())


def test_no_rows_give_no_responses():
    assert answers([]) == []


@pytest.mark.skipif(growing_cache(tiny_lmm().model.config) is None, reason="built otherwise here")
def test_the_growing_cache_holds_what_transformers_own_holds():
    config = tiny_lmm().model.config
    cache, generator = growing_cache(config), torch.Generator().manual_seed(0)
    keys, values = [], []
    for tokens in (5, 1, 1, ROOM, 1, 3 * ROOM, 1):
        for made in (keys, values):
            made.append(torch.randn(3, 2, tokens, 8, generator=generator))
        found = cache.update(keys[-1], values[-1], 1)
        assert torch.equal(found[0], torch.cat(keys, dim=2))
        assert torch.equal(found[1], torch.cat(values, dim=2))
        assert cache.get_seq_length(1) == found[0].shape[2]
    assert cache.get_seq_length(0) == 0
