import numpy as np
import pytest
import torch

from lmmsteer.methods.extraction import EXTRACTIONS, extract, first_component, probe, states
from tests.engine import oracle
from tests.tiny import photographs, tiny_llava, tiny_lmm

PROMPTS = ("What is the gender of the person?", "Is it day or night?", "Describe the image.")
PICTURES = tuple(photographs().values())[:3]
PAIRS = tuple(zip(PROMPTS, PICTURES, strict=True))


def prepared(lmm):
    return [(prompt, lmm.prepare(picture)) for prompt, picture in PAIRS]


@torch.no_grad()
def hidden(model, batch):
    """Every block's input for one row, by transformers itself. [tokens, n_layers, d_model]."""
    out = model(**batch, output_hidden_states=True).hidden_states
    return torch.stack([h[0] for h in out[:-1]], 1)  # The last one stands behind the final norm.


@pytest.mark.parametrize("position", ["prompt_last", "prompt_mean"])
def test_states_of_a_padded_batch_are_each_rows_hidden_states(position):
    lmm = tiny_lmm()
    model, processor = oracle.plain(tiny_llava())
    found = states(lmm, prepared(lmm), position)
    assert found.shape == (3, lmm.n_layers + 1, lmm.d_model)
    for row, (prompt, picture) in zip(found, PAIRS, strict=True):
        batch = oracle.inputs(processor, prompt, picture)
        h = hidden(model, batch)
        text = batch["input_ids"][0] != lmm.image_token_id
        expected = h[-1] if position == "prompt_last" else h[text].mean(0)
        assert torch.allclose(row[:-1], expected, atol=1e-4)


def test_response_means_are_those_of_one_forward_pass_over_prompt_and_answer():
    lmm = tiny_lmm()
    model, processor = oracle.plain(tiny_llava())
    answers = [[17, 60, 41, 9], [], [33]]
    found = states(lmm, prepared(lmm), "response_mean", answers)
    for row, (prompt, picture), answer in zip(found, PAIRS, answers, strict=True):
        batch = oracle.inputs(processor, prompt, picture)
        ids = torch.cat([batch["input_ids"], torch.tensor([answer], dtype=torch.long)], 1)
        h = hidden(model, {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)})
        expected = h[-len(answer) :].mean(0) if answer else h[-1]
        assert torch.allclose(row[:-1], expected, atol=1e-4)


def test_states_leave_no_hook_behind():
    lmm = tiny_lmm()
    states(lmm, prepared(lmm))
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in lmm.layers)


def gaussian(seed, n=40, layers=3, d=6):
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([4.0, 1.0, 1.0, 0.5, 0.5, 0.25])
    bias = torch.randn(n, layers, d, generator=generator) * spread
    standard = torch.randn(n, layers, d, generator=generator) * spread
    return bias + torch.tensor([1.0, 1, 0, 0, 0, 0]), standard


def test_the_mean_is_the_difference_in_means_itself():
    bias, standard = gaussian(0)
    expected = (bias.double() - standard.double()).mean(0)
    assert torch.allclose(extract("mean", bias, standard), expected, atol=1e-12)


def test_the_first_component_is_numpys_first_right_singular_vector():
    for seed in range(5):
        bias, standard = (x[:, 0].double() for x in gaussian(seed))
        v = np.linalg.svd((bias - standard).numpy())[2][0]
        assert abs(float(first_component(bias, standard) @ torch.from_numpy(v))) > 1 - 1e-9


def test_the_probe_is_a_ridge_logistic_regression():
    bias, standard = (x[:, 0].double() for x in gaussian(1))
    x = torch.cat([bias, standard])
    x = (x - x.mean(0)) / (x - x.mean(0)).pow(2).mean().sqrt()
    y = torch.tensor([1.0] * 40 + [-1.0] * 40, dtype=torch.float64)
    w = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([w], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        margin = y * (x @ w[:6] + w[6])
        loss = torch.nn.functional.softplus(-margin).sum() + 0.5 * w[:6].square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    expected = w.detach()[:6] / w.detach()[:6].norm()
    found = probe(bias, standard)
    assert float(found @ expected) > 1 - 1e-5
    mean = bias.mean(0) - standard.mean(0)
    assert float(found @ mean / mean.norm()) < 0.99  # It looks away from where the noise is.


@pytest.mark.parametrize("extraction", EXTRACTIONS)
def test_a_candidate_points_to_the_bias_and_is_as_long_as_the_means_lie_apart_along_it(extraction):
    bias, standard = gaussian(2)
    found = extract(extraction, bias, standard)
    difference = (bias.double() - standard.double()).mean(0)
    along = (found * difference).sum(1)
    assert (along > 0).all()
    assert torch.allclose(along, found.square().sum(1))
    flipped = extract(extraction, standard, bias)
    assert torch.allclose(flipped, -found, atol=1e-3)


@pytest.mark.parametrize("extraction", EXTRACTIONS)
def test_a_layer_where_nothing_differs_has_a_zero_candidate(extraction):
    bias, standard = gaussian(3)
    bias[:, 1] = standard[:, 1] = 1.5
    found = extract(extraction, bias, standard)
    assert torch.equal(found[1], torch.zeros(6, dtype=torch.float64))
    assert (found[[0, 2]].norm(dim=1) > 0).all()


@pytest.mark.parametrize("extraction", EXTRACTIONS)
def test_a_layer_that_is_not_finite_stays_so(extraction):
    bias, standard = gaussian(4)
    bias[0, 2, 0] = torch.inf
    found = extract(extraction, bias, standard)
    assert not torch.isfinite(found[2]).all()
    assert torch.isfinite(found[:2]).all()
