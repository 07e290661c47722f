"""How much each token of the vocabulary speaks for a class: integrated gradients of f_text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lmmsteer.methods.passes import TOGETHER, Passes, Tensors
from lmmsteer.models.text_classifier import LENGTH, Weights, logits_of_embedded

AGGREGATES = ("sum", "mean")
BATCH = 16


def integrated_gradients(weights: Weights, ids: Tensor, labels: Tensor, steps: int = 50) -> Tensor:
    """How much each token of a text adds to the logit of its class, against no embeddings at all.

    a_i = sum_d e_id int_0^1 dF(t e)/de_id dt, F: the logit of the text's class; positions are added
    inside F. Gauss-Legendre quadrature. The a_i of a text sum to F(e) - F(0).

    ids: [rows, tokens], -1 for padding; labels: [rows]; result: [rows, tokens], 0 at padding.
    Source: Sundararajan, Taly and Yan 2017 (arXiv 1703.01365), equation 1.
    """
    nodes, shares = np.polynomial.legendre.leggauss(steps)  # On [-1, 1]; the integral's is [0, 1].
    with torch.inference_mode(False), torch.enable_grad():
        ids, labels = ids.clone(), labels.clone()  # What inference has made cannot be tracked.
        kept = {name: weight.clone().detach() for name, weight in weights.items()}
        mask = ids >= 0
        embedded = kept["token.weight"][ids.clamp(min=0)]
        slope = torch.zeros_like(embedded)
        for node, share in zip((nodes + 1) / 2, shares / 2, strict=True):
            point = (embedded * float(node)).requires_grad_()
            found = logits_of_embedded(kept, point, mask)
            (gradient,) = torch.autograd.grad(found.gather(1, labels[:, None]).sum(), point)
            slope += float(share) * gradient
        return ((embedded * slope).sum(-1) * mask).detach()


def token_attributions(
    weights: Weights,
    texts: Sequence[Sequence[int]],
    labels: Sequence[int],
    vocab_size: int,
    classes: int,
    *,
    aggregate: str = "sum",
    steps: int = 50,
    passes: Passes = Passes(),  # noqa: B008 - it keeps nothing
    say: Callable[[str], None] = lambda line: None,
) -> Tensor:
    """Attributions of tokens over the texts of each class, for its logit. 64 texts are a pass.

    aggregate: their sum, or their mean over a token's occurrences. Result: [classes, vocab]
    float64. Texts are cut to their first 128 tokens.
    """
    device = weights["token.weight"].device
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))

    def none() -> dict[str, Tensor]:
        zeros = torch.zeros(classes * vocab_size, dtype=torch.float64)
        return {"sums": zeros, "counts": zeros}

    def more(state: Tensors, at: int) -> dict[str, Tensor]:
        sums, counts = state["sums"].clone(), state["counts"].clone()
        some = order[at * TOGETHER : (at + 1) * TOGETHER]
        for start in range(0, len(some), BATCH):
            chosen = [at for at in some[start : start + BATCH] if texts[at]]
            if not chosen:
                continue
            ids = padded([texts[at] for at in chosen])
            of = torch.tensor([labels[at] for at in chosen])
            found = integrated_gradients(weights, ids.to(device), of.to(device), steps).cpu()
            places = (of[:, None] * vocab_size + ids)[ids >= 0]
            sums.index_add_(0, places, found[ids >= 0].double())
            counts.index_add_(0, places, torch.ones(len(places), dtype=torch.float64))
        say(f"texts attributed: {at * TOGETHER + len(some)} of {len(texts)}")
        return {"sums": sums, "counts": counts}

    found = passes.steps("attributions", none, more, math.ceil(len(order) / TOGETHER))
    total = found["sums"]
    if aggregate == "mean":
        total = total / found["counts"].clamp(min=1)
    return total.view(classes, vocab_size)


def beta_of(attributions: Tensor, aggregate: str = "sum") -> Tensor:
    """The weights of the adjustment: what speaks for a class, less what speaks for the others.

    A class's sums are divided by their total where that is positive; means are not. beta_k = class
    k - mean of the others, positive values divided by their maximum, negative ones by the largest
    size among them. Of two classes only the second has a beta (the first's is its negative).

    attributions: [classes, vocab]; result: [1 or classes, vocab] float32 in [-1, 1].
    Source: Jung, Chai and Wang, ICLR 2026 (ALA), and its public code.
    """
    if aggregate == "sum":
        totals = attributions.sum(1, keepdim=True)
        attributions = torch.where(totals > 0, attributions / totals, attributions)
    others = (attributions.sum(0) - attributions) / (len(attributions) - 1)
    beta = attributions - others
    beta = beta[1:] if len(beta) == 2 else beta
    tiny = torch.finfo(beta.dtype).tiny
    up = beta.clamp(min=0) / beta.amax(1, keepdim=True).clamp(min=tiny)
    down = beta.clamp(max=0) / (-beta.amin(1, keepdim=True)).clamp(min=tiny)
    return (up + down).float()


def padded(texts: Sequence[Sequence[int]]) -> Tensor:
    """Texts side by side, their first 128 tokens, -1 behind them. [texts, tokens] int64"""
    width = min(LENGTH, max(map(len, texts)))
    rows = [[*text[:width], *[-1] * (width - len(text))] for text in texts]
    return torch.tensor(rows, dtype=torch.long)
