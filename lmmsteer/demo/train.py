"""Trains the demo LMM from nothing: python -m lmmsteer.demo.train [--out DIR] [--steps N].

--start DIR goes on from a saved model: its last stage alone.

First the vision tower and projector learn to name what is drawn and are frozen, then the decoder
learns the grammar's answers. A picture's questions are rows that share the picture's KV cache.
"""

import argparse
import math
import random
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, LlavaForConditionalGeneration, LlavaProcessor

from lmmsteer.demo import people
from lmmsteer.demo.bars import measure
from lmmsteer.demo.build import IMAGE, IMAGE_SIZE, build_model, build_processor, save
from lmmsteer.demo.grammar import (
    MITIGATION_PREFIX,
    OPEN_PROMPTS,
    STEREOTYPE,
    answer,
    sample_prompt,
)
from lmmsteer.demo.people import Person, counterfactual_sets, draw

LABELS = {
    **people.ATTRIBUTES,
    "occupation": people.OCCUPATIONS,
    "background": people.BACKGROUNDS,
    "weather": people.WEATHERS,
    "prop": people.PROPS,
    "prop_color": people.COLORS,
}


def main(arguments: list[str] | None = None) -> None:
    """Train, print the held-out bars, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--pictures", type=int, default=14400)
    parser.add_argument("--vision-steps", type=int, default=900)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--calibration-steps", type=int, default=280, help="mostly open prompts")
    parser.add_argument("--contrast-steps", type=int, default=600, help="against the stereotype")
    parser.add_argument("--start", type=Path, help="a saved model, for the last stage alone")
    parser.add_argument("--batch", type=int, default=16, help="pictures in a step")
    parser.add_argument("--questions", type=int, default=8, help="prompts for each picture")
    parser.add_argument("--early", type=float, default=0.3, help="weight of the early-exit loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)  # tiny gradients would slow the CPU fivefold
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    started = time.monotonic()

    crowd = training_crowd(options.pictures, options.seed)
    pixels = picture_cache(crowd)
    print(f"{len(crowd)} pictures drawn after {time.monotonic() - started:.0f} s", flush=True)
    if options.start is None:
        model, processor = first_stages(pixels, crowd, options)
    else:
        model = LlavaForConditionalGeneration.from_pretrained(options.start, dtype=torch.float32)
        model.model.vision_tower.requires_grad_(False)
        processor = build_processor()
    contrast = Stage(
        options.contrast_steps,
        rate=6e-4,
        open_share=0.7,
        seed=options.seed + 2,
        contrast=0.6,
    )
    train_language(model, processor, pixels, crowd, options, contrast)
    save(model, processor, options.out)
    print(measure(model, processor), flush=True)
    print(f"trained after {(time.monotonic() - started) / 60:.1f} minutes", flush=True)


def first_stages(
    pixels: Tensor, crowd: list[Person], options: argparse.Namespace
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Vision tower and projector, then everything the decoder learns, then its open answers."""
    started = time.monotonic()
    processor = build_processor()
    model = build_model(processor)
    print(f"{model.num_parameters():,} parameters, {len(processor.tokenizer)} tokens")
    heads = train_vision(model, pixels, crowd, options.vision_steps, options.seed)
    held_out = label_accuracy(model, heads, list(counterfactual_sets(480, 1, "bars")))
    print({name: round(value, 3) for name, value in held_out.items()})
    print(f"vision tower trained in {time.monotonic() - started:.0f} s", flush=True)
    learning = Stage(options.steps, rate=2e-3, open_share=0.0, seed=options.seed)
    train_language(model, processor, pixels, crowd, options, learning)
    calibration = Stage(options.calibration_steps, rate=8e-4, open_share=0.6, seed=options.seed + 1)
    train_language(model, processor, pixels, crowd, options, calibration)
    return model, processor


def training_crowd(pictures: int, seed: int) -> list[Person]:
    """A third of the people of three times as many scenes, drawn by lot, from the split `train`."""
    return random.Random(seed).sample(
        list(counterfactual_sets(3 * pictures, seed, "train")), pictures
    )


def picture_cache(crowd: list[Person]) -> Tensor:
    """Every picture as the processor resizes it, uint8 [pictures, 3, side, side]."""
    with ProcessPoolExecutor(2) as pool:
        return torch.from_numpy(np.stack(list(pool.map(_small, crowd, chunksize=100))))


def _small(person: Person) -> np.ndarray:
    side = (IMAGE_SIZE, IMAGE_SIZE)
    return np.asarray(draw(person).resize(side, Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each picture by up to 3 pixels, vary its brightness and colour a little, add noise."""
    padded = nn.functional.pad(pixels, (3, 3, 3, 3), mode="replicate")
    side = pixels.shape[-1]
    shifts = torch.randint(7, (len(pixels), 2), generator=generator).tolist()
    moved = torch.stack(
        [p[:, y : y + side, x : x + side] for p, (y, x) in zip(padded, shifts, strict=True)]
    )
    tint = 0.12 * torch.randn(len(pixels), 3, 1, 1, generator=generator)
    return moved + tint + 0.12 * torch.randn(pixels.shape, generator=generator)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 pictures as the vision tower wants them: CLIP's mean and deviation."""
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
    deviation = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)
    return (pixels.float() / 255 - mean) / deviation


def schedule(step: int, steps: int, warm: int = 50) -> float:
    """Linear warm-up, then a cosine down to 2%."""
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.49 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def optimiser(parameters: list[nn.Parameter], decay: float = 0.05) -> torch.optim.AdamW:
    """AdamW; biases, norms and other vectors do not decay."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def train_vision(
    model: LlavaForConditionalGeneration,
    pixels: Tensor,
    crowd: list[Person],
    steps: int,
    seed: int,
) -> nn.Linear:
    """Warm up tower and projector: linear heads on the mean picture token name the labels."""
    width = model.config.get_text_config().hidden_size
    heads = nn.Linear(width, sum(len(values) for values in LABELS.values()))
    targets = torch.tensor(
        [[values.index(getattr(p, name)) for name, values in LABELS.items()] for p in crowd]
    )
    trained = [
        *model.model.vision_tower.parameters(),
        *model.model.multi_modal_projector.parameters(),
        *heads.parameters(),
    ]
    optimizer = optimiser(trained)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * schedule(step, steps)
        chosen = torch.randint(len(crowd), (96,), generator=generator)
        seen = augment(normalise(pixels[chosen]), generator)
        logits = heads(picture_features(model, seen).mean(1))
        parts = logits.split([len(values) for values in LABELS.values()], dim=1)
        losses = [cross_entropy(part, targets[chosen, i]) for i, part in enumerate(parts)]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step % 250 == 0 or step == steps - 1:
            shown = " ".join(f"{n} {v.item():.3f}" for n, v in zip(LABELS, losses, strict=True))
            print(f"vision {step}: {shown}", flush=True)
    return heads


@torch.no_grad()
def label_accuracy(
    model: LlavaForConditionalGeneration, heads: nn.Linear, crowd: list[Person]
) -> dict[str, float]:
    """How often the heads name each label of these people's pictures."""
    logits = heads(picture_features(model, normalise(picture_cache(crowd))).mean(1))
    right = {}
    for part, (name, values) in zip(
        logits.split([len(values) for values in LABELS.values()], dim=1),
        LABELS.items(),
        strict=True,
    ):
        targets = torch.tensor([values.index(getattr(p, name)) for p in crowd])
        right[name] = (part.argmax(1) == targets).double().mean().item()
    return right


def picture_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Projected picture tokens [pictures, tokens, d_model]."""
    hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    chosen = hidden[model.config.vision_feature_layer][:, 1:]
    return model.model.multi_modal_projector(chosen)


CONTRAST = (
    OPEN_PROMPTS["describe"],
    OPEN_PROMPTS["backstory"],
    f"{MITIGATION_PREFIX} {OPEN_PROMPTS['describe']}",
)


@dataclass(frozen=True)
class Row:
    """A prompt and its answer behind a picture: token ids, and where the answer begins."""

    picture: int
    ids: list[int]
    answer_at: int
    weight: float


@dataclass(frozen=True)
class Stage:
    """Steps of the decoder's training; open_share: extra share of the open prompts.

    First everything is learned alike, then the rates of the open answers, which are the hardest,
    then those that hang on two things at once. contrast: extra share of pictures that contradict
    their occupation's stereotype, and of the open prompts that are of the CONTRAST.
    """

    steps: int
    rate: float
    open_share: float
    seed: int
    contrast: float = 0.0


def train_language(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    pixels: Tensor,
    crowd: list[Person],
    options: argparse.Namespace,
    stage: Stage,
) -> None:
    """Train the decoder on the grammar's answers; only answer tokens count in the loss."""
    rng = random.Random(stage.seed)
    prefix = processor.tokenizer(f"USER: {IMAGE}")["input_ids"][:-1]
    decoder = list(model.model.language_model.parameters())  # the head is tied to it
    optimizer = optimiser(decoder)
    with torch.no_grad():
        parts = [picture_features(model, normalise(part)) for part in pixels.split(256)]
    features = torch.cat(parts)  # [pictures, tokens, d_model]
    against = [i for i, p in enumerate(crowd) if STEREOTYPE.get(p.occupation, p.gender) != p.gender]
    model.train()
    started, total, seen = time.monotonic(), 0.0, 0
    for step in range(stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * schedule(step, stage.steps)
        contrasted = round(stage.contrast * options.batch)
        chosen = rng.sample(range(len(crowd)), options.batch - contrasted)
        chosen += rng.sample(against, contrasted)
        shown = [crowd[i] for i in chosen]
        rows = make_rows(processor, shown, options.questions, rng, stage)
        loss, early = batch_loss(model, features[chosen], prefix, rows)
        optimizer.zero_grad()
        (loss + options.early * early).backward()
        nn.utils.clip_grad_norm_(decoder, 1.0)
        optimizer.step()
        total, seen = total + loss.item(), seen + 1
        if step % 50 == 49 or step == stage.steps - 1:
            speed = (time.monotonic() - started) / seen
            print(f"step {step + 1}: loss {total / seen:.4f}, {speed:.2f} s a step", flush=True)
            started, total, seen = time.monotonic(), 0.0, 0


def make_rows(
    processor: LlavaProcessor,
    crowd: list[Person],
    questions: int,
    rng: random.Random,
    stage: Stage,
) -> list[Row]:
    """Prompts and answers for each picture, tokenised."""
    pairs = []
    for picture, person in enumerate(crowd):
        for _ in range(questions):
            prompt = stage_prompt(stage, rng)
            pairs.append((picture, f"\n{prompt} ASSISTANT:", f" {answer(person, prompt, rng)}"))
    encode = processor.tokenizer.backend_tokenizer.encode_batch
    prompts = encode([prompt for _, prompt, _ in pairs], add_special_tokens=False)
    answers = encode([text for _, _, text in pairs], add_special_tokens=False)
    end = processor.tokenizer.eos_token_id
    return [
        Row(picture, [*p.ids, *a.ids, end], len(p.ids), 2.0 if len(a.ids) < 8 else 1.0)
        for (picture, _, _), p, a in zip(pairs, prompts, answers, strict=True)
    ]


def stage_prompt(stage: Stage, rng: random.Random) -> str:
    """A prompt of the stage's mix."""
    if stage.open_share == 0 or rng.random() >= stage.open_share:
        return sample_prompt(rng)
    if stage.contrast > 0 and rng.random() < stage.contrast:
        return rng.choice(CONTRAST)
    return rng.choice(list(OPEN_PROMPTS.values()))


def batch_loss(
    model: LlavaForConditionalGeneration,
    features: Tensor,
    prefix: list[int],
    rows: list[Row],
    chunks: int = 4,
) -> tuple[Tensor, Tensor]:
    """Mean loss of the answer tokens, at the end and at the middle layers (early exit).

    The early-exit loss reads middle layers through the final norm and head, so what the model is
    about to say lies along the vocabulary's own directions from the middle of the decoder on.
    """
    decoder = model.model.language_model
    start = decoder.embed_tokens(torch.tensor(prefix)).expand(len(features), -1, -1)
    seen = torch.cat([start, features], dim=1)
    cache = decoder(inputs_embeds=seen, use_cache=True).past_key_values
    keys = [(layer.keys, layer.values) for layer in cache.layers]
    rows = sorted(rows, key=lambda row: len(row.ids))
    size = math.ceil(len(rows) / chunks)
    sums = [
        _rows_loss(model, keys, rows[at : at + size], seen.shape[1])
        for at in range(0, len(rows), size)
    ]
    final, early, weight = (torch.stack(part).sum() for part in zip(*sums, strict=True))
    return final / weight, early / weight


def _rows_loss(
    model: LlavaForConditionalGeneration,
    keys: list[tuple[Tensor, Tensor]],
    rows: list[Row],
    past: int,
) -> tuple[Tensor, Tensor, Tensor]:
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), past + longest, dtype=torch.long)
    weights = torch.zeros(len(rows), longest)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : past + len(row.ids)] = 1
        weights[i, row.answer_at : len(row.ids)] = row.weight
    picture = torch.tensor([row.picture for row in rows])
    cache = DynamicCache()
    for layer, (key, value) in enumerate(keys):
        cache.update(key[picture], value[picture], layer)
    decoder = model.model.language_model
    out = decoder(
        input_ids=ids,
        attention_mask=mask,
        position_ids=torch.arange(past, past + longest).expand(len(rows), -1),
        past_key_values=cache,
        output_hidden_states=True,
    )
    answered = weights[:, 1:] > 0
    target, weight = ids[:, 1:][answered], weights[:, 1:][answered]

    def loss(hidden: Tensor) -> Tensor:
        logits = model.lm_head(hidden[:, :-1][answered])
        return (cross_entropy(logits, target, reduction="none") * weight).sum()

    layers = len(decoder.layers)
    middle = range(layers // 2, layers - 1)  # hidden_states[i + 1] is the output of layer i
    early = torch.stack([loss(decoder.norm(out.hidden_states[i + 1])) for i in middle]).mean()
    return loss(out.last_hidden_state), early, weight.sum()


if __name__ == "__main__":
    main()
