"""The training of ALA's text classifier, epoch by epoch, on the model's own tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lmmsteer.methods.ala_texts import Texts
from lmmsteer.methods.attributions import padded
from lmmsteer.methods.passes import Passes, Tensors
from lmmsteer.models.text_classifier import HEADS, HIDDEN, LAYERS, LENGTH, WIDTH, Weights, logits

WEIGHT, MOMENTS, STEPS, RANDOM = "weight", ("exp_avg", "exp_avg_sq"), "steps", "random"


class _Network(nn.Module):
    """The text classifier with dropout, for training alone."""

    def __init__(self, vocab_size: int, classes: int, dropout: float) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout, batch_first=True)
        self.token = nn.Embedding(vocab_size, WIDTH)
        self.position = nn.Embedding(LENGTH, WIDTH)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids >= 0
        places = torch.arange(ids.shape[1])
        x = self.dropout(self.token(ids.clamp(min=0)) + self.position(places))
        x = self.encoder(x, src_key_padding_mask=~mask)
        shown = mask.unsqueeze(-1).to(x.dtype)
        return self.head((x * shown).sum(1) / shown.sum(1))


@dataclass(frozen=True)
class Training:
    """How a text classifier is trained: AdamW on the cross entropy.

    Source: Jung, Chai and Wang, ICLR 2026 (ALA), public code: lr 2e-5, batch 16, dropout 0.1; 3
    epochs (gender), 10 (toxicity), 150 at 1e-4 (race).
    """

    epochs: int = 3
    batch: int = 16
    lr: float = 2e-5
    dropout: float = 0.1
    seed: int = 0


def train_text_classifier(
    texts: Texts,
    vocab_size: int,
    classes: int,
    how: Training,
    passes: Passes = Passes(),  # noqa: B008 - it keeps nothing
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Tensor]:
    """The weights of a text classifier (`text_classifier.shapes`). Every epoch is a pass.

    On the CPU whatever the model's device: the same texts and seed give the same weights.
    """

    def begun() -> dict[str, Tensor]:
        torch.manual_seed(how.seed)
        return _state(_Network(vocab_size, classes, how.dropout), None)

    def epoch(state: Tensors, at: int) -> dict[str, Tensor]:
        network, optimizer = _restored(state, vocab_size, classes, how)
        for chosen in torch.randperm(len(texts)).split(how.batch):
            batch = texts.some(chosen.tolist())
            found = network(padded(batch.ids))
            optimizer.zero_grad()
            cross_entropy(found, torch.tensor(batch.labels)).backward()
            optimizer.step()
        say(f"text classifier: epoch {at + 1} of {how.epochs}")
        return _state(network, optimizer)

    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        state = passes.steps("text-classifier", begun, epoch, how.epochs)
    marked = f"{WEIGHT} "
    return {k.removeprefix(marked): x for k, x in state.items() if k.startswith(marked)}


def _state(network: _Network, optimizer: torch.optim.AdamW | None) -> dict[str, Tensor]:
    """All that the next epoch hangs on; without an optimizer, none has been yet."""
    found = {RANDOM: torch.get_rng_state(), STEPS: torch.zeros(())}
    for name, weight in network.named_parameters():
        found[f"{WEIGHT} {name}"] = weight
        held = {} if optimizer is None else optimizer.state[weight]
        for moment in MOMENTS:
            found[f"{moment} {name}"] = held.get(moment, torch.zeros_like(weight))
        found[STEPS] = held.get("step", found[STEPS])
    return found


def _restored(
    state: Tensors, vocab_size: int, classes: int, how: Training
) -> tuple[_Network, torch.optim.AdamW]:
    """The network, its optimizer and the random numbers as they were."""
    network = _Network(vocab_size, classes, how.dropout).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=how.lr)
    for name, weight in network.named_parameters():
        weight.data.copy_(state[f"{WEIGHT} {name}"])
        moments = {moment: state[f"{moment} {name}"].clone() for moment in MOMENTS}
        optimizer.state[weight] = {"step": state[STEPS].clone(), **moments}
    torch.set_rng_state(state[RANDOM])
    return network, optimizer


def text_accuracy(weights: Weights, texts: Texts, batch: int = 64) -> float | None:
    """Share of texts whose class is found; None for no texts."""
    right = 0
    for start in range(0, len(texts), batch):
        some = texts.some(range(start, min(start + batch, len(texts))))
        found = logits(weights, padded(some.ids)).argmax(-1)
        right += int((found == torch.tensor(some.labels)).sum())
    return right / len(texts) if len(texts) else None
