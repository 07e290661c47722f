"""How the next token is chosen: argmax(logits / T + Gumbel noise) after top-k and top-p.

The noise is a pure function of (row id, step, token id): 32-bit integer hashing, so that a row's
random numbers depend on no neighbour, no batch, no device and no method. Every engine uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

from lmmsteer.errors import LmmsteerError

NEVER = 2**31 - 1
SPARE = 14  # Candidates kept beyond top_k, since values tied with the k-th count too.


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; the defaults are the published study's.

    temperature: 0 is greedy. top_k: keep the k largest logits and all tied with the k-th, 0 is no
    cut. top_p: keep the smallest set that holds this share of the mass, 1 is no cut.
    Source: Howard et al. 2024 (arXiv 2405.20152); transformers' default top_k.
    """

    temperature: float = 0.75
    top_k: int = 50
    top_p: float = 1.0
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        allowed = {
            "temperature": (self.temperature >= 0, "0 (greedy) or more"),
            "top_k": (self.top_k >= 0, "0 (no cut) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1 (no cut)"),
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more"),
        }
        for name, (good, need) in allowed.items():
            if not good:
                raise LmmsteerError(
                    f"sampling.{name}={getattr(self, name)} is out of range.",
                    f"Set sampling.{name} to {need}",
                )


def row_keys(row_ids: Sequence[str]) -> Tensor:
    """The key of each row's noise: its 128-bit id folded to two words. [rows, 2] int32.

    The id's four big-endian 32-bit words w0..w3 give (w0 xor w2, w1 xor w3).
    """
    words = [[int(row_id[at : at + 8], 16) for at in range(0, 32, 8)] for row_id in row_ids]
    folded = [[_signed(a ^ c), _signed(b ^ d)] for a, b, c, d in words]
    return torch.tensor(folded, dtype=torch.int32).reshape(-1, 2)


def gumbel(keys: Tensor, step: int | Tensor, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise of (row, step, token): -log(-log(1 - w)), w uniform in (0, 1).

    w = (h + 1/2) / 2^32 in float32, h = `noise_words` without its sign. [rows, n] float32.
    """
    words = noise_words(keys, step, tokens)
    high, low = _shifted(words, 8), words & 0xFF
    uniform = high.float().mul_(2.0**-24).add_(low.float().add_(0.5).mul_(2.0**-32))
    exponential = uniform.clamp_(max=1 - 2.0**-24).neg_().log1p_().neg_()
    return exponential.log_().neg_()


def noise_words(keys: Tensor, step: int | Tensor, tokens: Tensor) -> Tensor:
    """32 random bits for each (row, step, token), by integer arithmetic that wraps around.

    h = mix(mix(token * G2 + s0) xor s1), s = mix(key + step * G1). keys: [rows, 2] int32; step: an
    int, or [rows]; tokens: [rows or 1, n] ids. Result: [rows, n] int32.
    """
    steps = torch.as_tensor(step, dtype=torch.int32, device=keys.device).reshape(-1, 1)
    state = _mix(keys + steps * _signed(0x9E3779B9))  # [rows, 2]
    words = tokens.to(torch.int32) * _signed(0x85EBCA6B) + state[:, :1]  # [rows, n]
    return _mix(_mix(words).bitwise_xor_(state[:, 1:]))


def _signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own drags the sign along."""
    return (x >> bits).bitwise_and_((1 << (32 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """Wellons' lowbias32: every input bit flips every output bit with a chance near one half."""
    x = (x ^ _shifted(x, 16)).mul_(0x7FEB352D)
    x = x.bitwise_xor_(_shifted(x, 15)).mul_(_signed(0x846CA68B))
    return x.bitwise_xor_(_shifted(x, 16))


def choose(logits: Tensor, keys: Tensor, step: int | Tensor, sampling: Sampling) -> Tensor:
    """The next token of every row. logits: [rows, vocab]; result: [rows] int64.

    Rows do not see each other. A row whose logits are not finite gets an arbitrary token; find it
    with `nonfinite`.
    """
    chosen, crowded = choose_among(logits, keys, step, sampling)
    if crowded.any():  # More ties with the k-th value than there is room for: look at every token.
        steps = step[crowded] if isinstance(step, Tensor) else step
        whole = logits[crowded].float() / sampling.temperature
        chosen[crowded] = _draw(whole, _every_token(whole), keys[crowded], steps, sampling)
    return chosen


def choose_among(
    logits: Tensor, keys: Tensor, step: int | Tensor, sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """`choose` from the top_k + SPARE largest logits alone: no host decides, so it can be captured.

    Result: [rows] int64, and [rows] bool: rows with so many ties that their token may be wrong.
    """
    nobody = torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
    if sampling.temperature == 0:
        return logits.argmax(-1), nobody
    width = sampling.top_k + SPARE
    if sampling.top_k == 0 or width >= logits.shape[-1]:
        scores = logits.float() / sampling.temperature
        return _draw(scores, _every_token(scores), keys, step, sampling), nobody
    values, tokens = _largest(logits, width)
    values = values.float() / sampling.temperature
    chosen = _draw(values, tokens, keys, step, sampling)
    kth = _kth(values, sampling.top_k).squeeze(-1)
    # Where fewer than top_k tokens are left at all, no tie at -inf is ever drawn.
    return chosen, (values.amin(-1) >= kth) & torch.isfinite(kth)


class Draws:
    """`choose` for these rows at this step, of whatever logits it is asked about.

    With exact=False by `choose_among`; `crowded` then says whose tokens may be wrong.
    """

    def __init__(
        self, keys: Tensor, step: int | Tensor, sampling: Sampling, *, exact: bool = True
    ) -> None:
        self.keys, self.step, self.sampling, self.exact = keys, step, sampling, exact
        self.crowded = torch.zeros(len(keys), dtype=torch.bool, device=keys.device)

    def __call__(self, logits: Tensor, /) -> Tensor:
        if self.exact:
            return choose(logits, self.keys, self.step, self.sampling)
        chosen, crowded = choose_among(logits, self.keys, self.step, self.sampling)
        self.crowded = self.crowded | crowded
        return chosen


def _every_token(scores: Tensor) -> Tensor:
    return torch.arange(scores.shape[-1], device=scores.device).unsqueeze(0)


def _largest(scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The largest scores and their tokens, in the tokens' order: argmax must not see topk's."""
    tokens = scores.topk(width, sorted=False).indices.sort(-1).values
    return scores.gather(-1, tokens), tokens


def _draw(
    scores: Tensor, tokens: Tensor, keys: Tensor, step: int | Tensor, sampling: Sampling
) -> Tensor:
    """argmax of masked scores plus noise. scores: [rows, n]; tokens: [rows or 1, n]."""
    scores = masked(scores, sampling.top_k, sampling.top_p)
    best = (scores + gumbel(keys, step, tokens)).argmax(-1, keepdim=True)
    return tokens.expand(scores.shape).gather(-1, best).squeeze(-1)


def masked(scores: Tensor, top_k: int, top_p: float) -> Tensor:
    """Scores with what top-k and then top-p cut off at -inf; values tied with a kept one stay."""
    if 0 < top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < _kth(scores, top_k), -torch.inf)
    if top_p >= 1:
        return scores
    ordered = scores.sort(-1, descending=True).values
    mass = ordered.softmax(-1)
    above = mass.cumsum(-1) - mass
    smallest = ordered.masked_fill(above >= top_p, torch.inf).amin(-1, keepdim=True)
    return scores.masked_fill(scores < smallest, -torch.inf)


def _kth(scores: Tensor, k: int) -> Tensor:
    return scores.topk(k, sorted=False).values.amin(-1, keepdim=True)


def nonfinite(logits: Tensor) -> Tensor:
    """Rows whose logits hold a NaN or +inf, or nothing but -inf. [rows, vocab] -> [rows] bool."""
    return ~torch.isfinite(logits.amax(-1))


class NextToken(LogitsProcessor):
    """`choose` as transformers' generate takes it: all logits but the chosen token's are -inf.

    A row whose logits are not finite is ended there (`failed_at` holds the step), so that the
    other rows of the batch go on unchanged.
    """

    def __init__(
        self, keys: Tensor, sampling: Sampling, prompt_length: int, eos_ids: Sequence[int]
    ) -> None:
        self.keys = keys
        self.sampling = sampling
        self.prompt_length = prompt_length
        self.end = eos_ids[0] if eos_ids else 0
        self.failed_at = torch.full((keys.shape[0],), NEVER, device=keys.device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.prompt_length
        bad = nonfinite(scores)
        self.failed_at = self.failed_at.minimum(torch.where(bad, step, NEVER))
        chosen = choose(scores, self.keys, step, self.sampling).masked_fill_(bad, self.end)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen.unsqueeze(1), 0.0)
