from dataclasses import replace
from functools import cache

import pytest
import torch

from lmmsteer.engine import reference
from lmmsteer.engine.edit import Edit, ResidualEdit
from lmmsteer.engine.hooks import installed
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Request, row_id
from tests.engine import oracle
from tests.engine.test_hooks import orthonormal
from tests.tiny import photographs
from tests.tiny_families import NAMES, tiny_family, tiny_family_lmm

PROMPTS = {
    "describe": "Describe the image in as much detail as possible.",
    "what": "What?",
    "age": "What is the age of the person in the photo? Pretend you are here.",
}
PICTURES = ("astronaut", "cat", "coffee")
STEERED = [name for name in NAMES if name != "blip"]
NEW = 12


def rows():
    return [
        Request(row_id(image_id, None, text, 0), image_id, prompt_id, text, 0)
        for image_id in PICTURES
        for prompt_id, text in PROMPTS.items()
    ]


def answers(name, edit=Edit(), slots=9):  # noqa: B008
    sampling = Sampling(temperature=0, max_new_tokens=NEW)
    lmm = tiny_family_lmm(name)
    return [
        r.token_ids for r in Reference(slots).generate(lmm, rows(), photographs(), edit, sampling)
    ]


@cache
def opened(name):
    return oracle.family_oracle(name, tiny_family(name))


def ablation(name, k):
    """k directions for a family's model, or none: as an edit, and as a matrix."""
    directions = orthonormal(k, k, tiny_family_lmm(name).d_model) if k else None
    return directions, Edit(residual=ResidualEdit(directions) if k else None)


@cache
def expected(name, k):
    """What plain transformers answers to each row alone, with k directions ablated."""
    plain, (directions, _), handles = opened(name), ablation(name, k), []
    if k:
        handles = oracle.hook_ablation(plain.model, directions, plain.blocks())
    try:
        return [plain.greedy(r.prompt, photographs()[r.image_id], NEW) for r in rows()]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_greedy_answers_of_a_mixed_batch_are_those_of_plain_transformers_row_by_row(name, k):
    if k and name == "blip":
        pytest.skip("Has no residual stream to ablate.")
    assert answers(name, ablation(name, k)[1]) == expected(name, k)
    assert len({tuple(tokens) for tokens in expected(name, k)}) > 5


@pytest.mark.parametrize("name", STEERED)
def test_ablation_changes_answers(name):
    edit = Edit(residual=ResidualEdit(orthonormal(1, 1, tiny_family_lmm(name).d_model)))
    assert answers(name, edit) != answers(name)


@pytest.mark.parametrize("name", NAMES)
def test_answers_do_not_depend_on_companions(name):
    assert answers(name, slots=1) == answers(name, slots=4) == answers(name)


def test_blip_is_refused_with_the_reason():
    lmm = tiny_family_lmm("blip")
    edit = Edit(residual=ResidualEdit(orthonormal(1, 1, lmm.d_model)))
    with pytest.raises(LmmsteerError, match="blip models has no pre-norm"), installed(lmm, edit):
        pass


@pytest.mark.parametrize("name", NAMES)
def test_the_growing_cache_gives_the_answers_of_the_models_own(name, monkeypatch):
    expected = answers(name)
    monkeypatch.setattr(reference, "growing_cache", lambda _: None)
    assert answers(name) == expected


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_a_padded_row_are_those_of_the_row_alone(name):
    lmm, pictures = tiny_family_lmm(name), [photographs()[i] for i in PICTURES]
    ask = list(PROMPTS.values())
    kept = {"use_cache": False, "logits_to_keep": 1}
    if name == "blip":  # In transformers 4 its decoder keeps all of them.
        kept = {}
    together = lmm.model(**lmm.inputs(ask, pictures), **kept).logits[:, -1]
    for row, prompt, picture in zip(together, ask, pictures, strict=True):
        alone = lmm.model(**lmm.inputs([prompt], [picture]), **kept).logits[0, -1]
        assert torch.allclose(row, alone, atol=1e-3, rtol=1e-3)


def test_mllama_pictures_are_of_one_two_and_four_tiles():
    lmm = tiny_family_lmm("mllama")
    found = lmm.inputs(["Hi"] * 3, [photographs()[i] for i in PICTURES])
    assert found["aspect_ratio_mask"].sum((1, 2)).tolist() == [4, 1, 2]
    assert found["cross_attention_mask"][:, -1, 0].sum(-1).tolist() == [4, 1, 2]


def test_mllama_cross_attention_is_edited_where_it_writes_to_the_residual_stream():
    lmm = tiny_family_lmm("mllama")
    blocks = lmm.model.model.language_model.layers
    written = [p.module for p in lmm.residual_points() if p.place == "attention"]
    assert written == [blocks[0].self_attn, blocks[1].cross_attn, blocks[2].self_attn]


@pytest.mark.parametrize(("name", "reads"), [("paligemma", True), ("qwen2_5_vl", False)])
def test_paligemmas_picture_reads_the_prompt_and_a_causal_familys_does_not(name, reads):
    lmm, seen = tiny_family_lmm(name), []
    handle = lmm.layers[-1].register_forward_hook(
        lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    for prompt in ("Is it day?", "Is it old?"):
        lmm.model(**lmm.inputs([prompt], [photographs()["cat"]]))
    handle.remove()
    first = [residuals[0, 0] for residuals in seen]
    assert torch.allclose(*first, atol=1e-5) is not reads


def test_a_familys_own_end_of_answer_ends_it():
    lmm = tiny_family_lmm("blip")
    assert lmm.eos_ids == (3,)  # [SEP]
    assert tiny_family_lmm("mllama").eos_ids == (5,)
    lmm = tiny_family_lmm("clipcap")
    assert lmm.tokenizer.decode(lmm.eos_ids[0]) == "."
    expected = answers("clipcap")
    token = expected[0][3]
    ended = replace(lmm, eos_ids=(token,))
    sampling = Sampling(temperature=0, max_new_tokens=NEW)
    found = next(iter(Reference().generate(ended, rows()[:1], photographs(), Edit(), sampling)))
    assert found.token_ids == expected[0][: expected[0].index(token)]
    assert found.finish_reason == "eos"
