"""What an answer says of an attribute by a small transformer over the model's own tokens.

Inference alone, as a pure function of weights; it knows nothing of how they were learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding, layer_norm, linear, relu

WIDTH = 128
LAYERS = 2
HEADS = 4
HIDDEN = 2048
LENGTH = 128  # Tokens that it sees of an answer: the last ones.
Weights = Mapping[str, Tensor]
"""Tensors by the names of `shapes`: those of torch's own modules."""


@dataclass(frozen=True)
class TextClassifier:
    """f_text of the last 128 tokens of an answer and a candidate; the prompt is not among them.

    f_text = 2 sigmoid(logit of `label`) - 1; with margin: 2 softmax(logits)[label] - 1, for two
    classes 2 sigmoid(logit_1 - logit_0) - 1.

    weights: see `shapes`. Memory of a row: its last 127 tokens, -1 before the first.
    Source: Jung, Chai and Wang, ICLR 2026 (ALA), f_text; its public code reads the one logit.
    """

    weights: dict[str, Tensor]
    label: int = 1
    margin: bool = False

    def start(self, rows: int, device: torch.device) -> Tensor:
        return torch.full((rows, LENGTH - 1), -1, dtype=torch.long, device=device)

    def advance(self, memory: Tensor, tokens: Tensor) -> Tensor:
        return torch.cat([memory[:, 1:], tokens.unsqueeze(1)], 1)

    def score(self, memory: Tensor, tokens: Tensor, *, dense: bool = True) -> Tensor:
        ids = torch.cat([memory, tokens.unsqueeze(1)], 1)  # [rows, 128]
        if not dense:  # No more columns than the longest has tokens.
            ids = ids[:, -int((ids >= 0).sum(1).max()) :]
        weights = {name: weight.to(ids.device) for name, weight in self.weights.items()}
        found = logits(weights, ids)
        if self.margin:
            return 2 * found.softmax(-1)[:, self.label] - 1
        return 2 * found[:, self.label].sigmoid() - 1


def shapes(vocab_size: int, classes: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a classifier: token and position embeddings, encoder layers, a linear head."""
    layer = {
        "self_attn.in_proj_weight": (3 * WIDTH, WIDTH),
        "self_attn.in_proj_bias": (3 * WIDTH,),
        "self_attn.out_proj.weight": (WIDTH, WIDTH),
        "self_attn.out_proj.bias": (WIDTH,),
        "linear1.weight": (HIDDEN, WIDTH),
        "linear1.bias": (HIDDEN,),
        "linear2.weight": (WIDTH, HIDDEN),
        "linear2.bias": (WIDTH,),
        **{f"norm{at}.{part}": (WIDTH,) for at in (1, 2) for part in ("weight", "bias")},
    }
    return {
        "token.weight": (vocab_size, WIDTH),
        "position.weight": (LENGTH, WIDTH),
        **{f"encoder.layers.{at}.{k}": shape for at in range(LAYERS) for k, shape in layer.items()},
        "head.weight": (classes, WIDTH),
        "head.bias": (classes,),
    }


def logits(weights: Weights, ids: Tensor) -> Tensor:
    """The classes' logits of texts. ids: [rows, tokens], -1 for padding -> [rows, classes]."""
    embedded = embedding(ids.clamp(min=0), weights["token.weight"])
    return logits_of_embedded(weights, embedded, ids >= 0)


def logits_of_embedded(weights: Weights, embedded: Tensor, mask: Tensor) -> Tensor:
    """The same from token embeddings, to which positions are added here.

    embedded: [rows, tokens, 128]; mask: [rows, tokens], True where there is a token. Padding may
    stand on either side: positions count tokens.
    """
    places = (mask.long().cumsum(1) - 1).clamp(min=0)
    x = embedded + embedding(places, weights["position.weight"])
    for layer in range(LAYERS):
        x = _encoder_layer(_part(weights, f"encoder.layers.{layer}."), x, mask)
    shown = mask.unsqueeze(-1).to(x.dtype)
    mean = (x * shown).sum(1) / shown.sum(1).clamp(min=1)
    return linear(mean, weights["head.weight"], weights["head.bias"])


def _encoder_layer(w: Weights, x: Tensor, mask: Tensor) -> Tensor:
    """Attention, then an MLP with ReLU; a layer norm behind each. x: [rows, tokens, 128]."""
    x = _norm(w, "norm1", x + _attention(w, x, mask))
    hidden = relu(linear(x, w["linear1.weight"], w["linear1.bias"]))
    return _norm(w, "norm2", x + linear(hidden, w["linear2.weight"], w["linear2.bias"]))


def _attention(w: Weights, x: Tensor, mask: Tensor) -> Tensor:
    projected = linear(x, w["self_attn.in_proj_weight"], w["self_attn.in_proj_bias"])
    heads = projected.unflatten(-1, (3, HEADS, WIDTH // HEADS))  # [rows, tokens, 3, heads, 32]
    query, key, value = heads.permute(2, 0, 3, 1, 4)  # [rows, heads, tokens, 32] each
    scores = query @ key.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
    shares = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
    read = (shares @ value).transpose(1, 2).flatten(2)
    return linear(read, w["self_attn.out_proj.weight"], w["self_attn.out_proj.bias"])


def _norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"])


def _part(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): x for k, x in weights.items() if k.startswith(prefix)}
