import numpy as np
import pytest
import torch

from lmmsteer.methods.attributions import beta_of, integrated_gradients, padded, token_attributions
from lmmsteer.models.text_classifier import logits, logits_of_embedded
from tests.models.test_text_classifier import VOCAB, random_weights

TEXTS = [[3, 4, 3], [5, 6, 7, 8, 5], [9], [4, 10, 9, 3]]
LABELS = [0, 1, 1, 0]


def smooth_weights():
    """A classifier whose ReLUs are all open, so that quadratures of few steps are exact."""
    weights = random_weights(dtype=torch.float64)
    for name in weights:
        if name.endswith("linear1.bias"):
            weights[name] += 20
    return weights


def by_midpoints(weights, text, label, steps):
    """Integrated gradients of one text by the midpoint rule."""
    mask = torch.ones(steps, len(text), dtype=torch.bool)
    embedded = weights["token.weight"][text]
    at = (torch.arange(steps) + 0.5) / steps
    points = (at[:, None, None] * embedded).requires_grad_()
    found = logits_of_embedded(weights, points, mask)[:, label].sum()
    return (embedded * torch.autograd.grad(found, points)[0].mean(0)).sum(-1)


def added(weights, ids, labels):
    """By how much the embeddings raise the logit of a text's class. [texts]"""
    nothing = torch.zeros(*ids.shape, 128, dtype=torch.float64)
    raised = logits(weights, ids) - logits_of_embedded(weights, nothing, ids >= 0)
    return raised.gather(1, labels[:, None])[:, 0]


def test_attributions_sum_to_what_the_embeddings_add_to_the_logit():
    ids, labels = padded(TEXTS), torch.tensor(LABELS)
    for weights, tolerance in ((smooth_weights(), 1e-7), (random_weights(), 0.02)):
        weights = {name: weight.double() for name, weight in weights.items()}
        found = integrated_gradients(weights, ids, labels)
        assert torch.allclose(found.sum(1), added(weights, ids, labels), atol=tolerance, rtol=0)
        assert found[ids < 0].abs().max() == 0


def test_they_are_those_of_a_second_quadrature():
    weights = smooth_weights()
    found = integrated_gradients(weights, padded(TEXTS), torch.tensor(LABELS))
    for row, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True)):
        wanted = by_midpoints(weights, text, label, steps=300)
        assert torch.allclose(found[row, : len(text)], wanted, atol=1e-4 * wanted.abs().max())


def test_the_model_may_be_one_of_inference_alone():
    with torch.inference_mode():
        weights = random_weights()
        found = integrated_gradients(weights, padded(TEXTS), torch.tensor(LABELS), steps=3)
    assert found.abs().sum() > 0


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
def test_tokens_collect_what_their_occurrences_add_to_their_class(aggregate):
    weights = random_weights(dtype=torch.float64)
    found = token_attributions(weights, TEXTS, LABELS, VOCAB, 2, aggregate=aggregate, steps=8)
    wanted = np.zeros((2, VOCAB))
    counts = np.zeros((2, VOCAB))
    for text, label in zip(TEXTS, LABELS, strict=True):
        alone = integrated_gradients(weights, padded([text]), torch.tensor([label]), steps=8)[0]
        for token, value in zip(text, alone.tolist(), strict=True):
            wanted[label, token] += value
            counts[label, token] += 1
    if aggregate == "mean":
        wanted = wanted / np.maximum(counts, 1)
    assert np.allclose(found.numpy(), wanted, atol=1e-10)


def test_beta_is_the_difference_of_the_classes_scaled_on_either_side():
    sums = torch.tensor([[2.0, 1.0, 0.0, 1.0], [0.0, 1.0, 6.0, 1.0]]).double()
    # Shares 0.5 0.25 0 0.25 and 0 0.125 0.75 0.125: the differences are -0.5 -0.125 0.75 -0.125.
    assert torch.allclose(beta_of(sums), torch.tensor([[-1.0, -0.25, 1.0, -0.25]]))
    # As they are: -2 0 6 0.
    assert torch.allclose(beta_of(sums, "mean"), torch.tensor([[-1.0, 0.0, 1.0, 0.0]]))
    # A class whose total is not positive is not divided: -0.5 0.25 0.25 minus [1 -2 0].
    negative = torch.tensor([[1.0, -2.0, 0.0], [2.0, 1.0, 1.0]]).double()
    assert torch.allclose(beta_of(negative), torch.tensor([[-1.0, 1.0, 0.25 / 2.25]]))


def test_of_several_classes_each_is_held_against_the_mean_of_the_others():
    means = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 6.0]]).double()
    wanted = [[1.0, -0.5, -1.0], [-0.5, 1.0, -1.0], [-1.0, -1.0, 1.0]]
    assert torch.allclose(beta_of(means, "mean"), torch.tensor(wanted))
    assert beta_of(torch.zeros(3, 4).double()).abs().max() == 0
