"""Hidden states of pairs of a picture and a prompt, and a direction that tells two sets apart.

Knows neither what a direction is used for nor which layer's is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from lmmsteer.models.lmm import Lmm, PreparedPicture

Pair = tuple[str, PreparedPicture]
"""A prompt and the picture it is about."""

POSITIONS = ("prompt_last", "prompt_mean", "response_mean")
BATCH = 16
TINY = 1e-8  # Below this norm a difference is rounding; also Arditi's constant inside the logs.


@torch.inference_mode()
def states(
    lmm: Lmm,
    pairs: Sequence[Pair],
    position: str = "prompt_last",
    answers: Sequence[Sequence[int]] = (),
) -> Tensor:
    """Every pair's residuals before the first block and behind every block, at one position.

    h_l at the last prompt position; or its mean over the prompt's tokens, the picture's left out;
    or over the tokens of the answer, which is forced (an empty answer: the last prompt position).

    answers: token ids, one answer for each pair; of response_mean alone.
    [pairs, n_layers + 1, d_model] float32: entry l is the input of block l, l + 1 its output.
    """
    found = []
    for start in range(0, len(pairs), BATCH):
        prompts, pictures = zip(*pairs[start : start + BATCH], strict=True)
        inputs = lmm.inputs(prompts, pictures)
        if position == "response_mean":
            found.append(_forced(lmm, inputs, answers[start : start + BATCH]))
            continue
        weights = torch.ones(len(prompts), 1)
        if position == "prompt_mean":
            ids = inputs["input_ids"]
            text = (inputs["attention_mask"].bool() & (ids != lmm.image_token_id)).float()
            weights = text / text.sum(1, keepdim=True)  # [rows, tokens]
        with _recorded(lmm, len(prompts), [weights]) as total:
            forward(lmm, inputs)
        found.append(total)
    return torch.cat(found)


def forward(lmm: Lmm, inputs: Any) -> Tensor:
    """Logits of the first answer token. [rows, vocab]."""
    return lmm.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]


@contextmanager
def _recorded(lmm: Lmm, rows: int, weights: Sequence[Tensor]) -> Iterator[Tensor]:
    """Sums of hidden states, which the forward passes of a `with` block fill.

    weights: for each pass in turn, those of the last positions. [rows, positions] each.
    [rows, n_layers + 1, d_model] float32 on the processor.
    """
    total = torch.zeros(rows, lmm.n_layers + 1, lmm.d_model)
    calls = [0] * (lmm.n_layers + 1)

    def add(at: int, hidden: Tensor) -> None:  # [rows, tokens, d_model]
        w = weights[calls[at]].to(hidden.device, torch.float32).unsqueeze(-1)
        calls[at] += 1
        # No matrix product: some cards would round its factors.
        total[:, at] += (w * hidden[:, -w.shape[1] :].float()).sum(1).cpu()

    def before(_: Any, args: Any, kwargs: Any) -> None:
        add(0, args[0] if args else kwargs["hidden_states"])

    def after(at: int) -> Callable[..., None]:
        return lambda _, __, out: add(at, out[0] if isinstance(out, tuple) else out)

    with ExitStack() as placed:
        first = lmm.layers[0].register_forward_pre_hook(before, with_kwargs=True)
        placed.callback(first.remove)
        for at, block in enumerate(lmm.layers, 1):
            placed.callback(block.register_forward_hook(after(at)).remove)
        yield total


def _forced(lmm: Lmm, inputs: Any, answers: Sequence[Sequence[int]]) -> Tensor:
    """Mean states over the tokens of answers, fed one by one through transformers' generate."""
    lengths = torch.tensor([len(answer) for answer in answers])
    longest = int(lengths.max())
    share = 1 / lengths.clamp(min=1)
    steps = [(lengths == 0).float(), *((lengths > at) * share for at in range(longest))]
    pad = lmm.tokenizer.pad_token_id
    # One more than the longest, so that its last token is fed too.
    tokens = [[*answer, *[pad] * (longest + 1 - len(answer))] for answer in answers]
    forcing = _Forcing(torch.tensor(tokens), inputs["input_ids"].shape[1])
    config = GenerationConfig(
        do_sample=False, max_new_tokens=longest + 1, eos_token_id=None, pad_token_id=pad
    )
    with _recorded(lmm, len(answers), [step.unsqueeze(1) for step in steps]) as total:
        lmm.model.generate(
            **inputs, generation_config=config, logits_processor=LogitsProcessorList([forcing])
        )
    return total


class _Forcing(LogitsProcessor):
    """Leaves one token at each step. tokens: [rows, steps]; start: the prompt's length."""

    def __init__(self, tokens: Tensor, start: int) -> None:
        self.tokens = tokens
        self.start = start

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        token = self.tokens[:, input_ids.shape[1] - self.start].to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, token.unsqueeze(1), 0.0)


def extract(extraction: str, bias: Tensor, standard: Tensor) -> Tensor:
    """Each layer's direction from D_standard to D_bias, as long as the two lie apart along it.

    a_l = u_l (u_l . d_l), u_l: the extraction's unit vector, d_l: the difference in means. So its
    sign is that of the means, and a_l = d_l for `mean`.

    bias, standard: [pairs, n_layers, d_model], the i-th of each of the same picture.
    [n_layers, d_model] float64; zero for a layer where nothing differs.
    """
    difference = bias.mean(0, dtype=torch.float64) - standard.mean(0, dtype=torch.float64)
    if extraction == "mean":
        return difference
    unit_of = UNITS[extraction]
    found = torch.zeros_like(difference)
    for layer, d in enumerate(difference):
        both = bias[:, layer].double(), standard[:, layer].double()
        if torch.isfinite(d).all() and (both[0] - both[1]).norm() > TINY:
            unit = unit_of(*both)
            found[layer] = unit * (unit @ d)
        else:
            found[layer] = d
    return found


def first_component(bias: Tensor, standard: Tensor) -> Tensor:
    """The first principal component of the paired differences, not centred.

    u = argmax |D u|, D = H_bias - H_standard [pairs, d_model]; float64.
    Source: Zou et al. 2023 (arXiv 2310.01405), linear artificial tomography: there each difference
    has a random sign, so that their mean is zero; leaving the mean in gives the same matrix D^T D.
    """
    differences = bias - standard
    # The small side of the matrix: pairs are fewer than dimensions.
    _, vectors = torch.linalg.eigh(differences @ differences.T)
    return _unit(vectors[:, -1] @ differences)


def probe(bias: Tensor, standard: Tensor) -> Tensor:
    """The weights of a logistic regression that tells D_bias from D_standard, as a unit vector.

    p(bias | h) = sigmoid(w . h / s + b), s: the states' root mean square about their mean, so that
    the ridge penalty (C = 1) means the same at every layer. [pairs, d_model] float64 each.
    """
    from sklearn.linear_model import LogisticRegression

    h = torch.cat([bias, standard])
    h = h - h.mean(0)
    h = h / h.square().mean().sqrt().clamp(min=TINY)
    labels = [1] * len(bias) + [0] * len(standard)
    fitted = LogisticRegression(C=1.0, max_iter=10_000).fit(h.numpy(), labels)
    return _unit(torch.from_numpy(fitted.coef_[0]))


UNITS = {"pca": first_component, "probe": probe}
EXTRACTIONS = ("mean", *UNITS)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm().clamp(min=TINY)
