"""What the roofline needs to know of a model, a workload and a device: counted and measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lmmsteer.device import Device
from lmmsteer.engine.benchmark.roofline import Costs, Load, Rates
from lmmsteer.engine.benchmark.workload import Workload
from lmmsteer.models.lmm import Lmm, PreparedPicture

COPY_BYTES = {"cpu": 1 << 28}
MANY_ROWS = {"cpu": 512}
ACROSS_SEEDS_ONLY = ("paligemma",)  # Picture and prompt attend to each other.


def costs(lmm: Lmm, picture: PreparedPicture) -> Costs:
    """A model's costs; picture: one of the workload, whose vision FLOP are counted by torch."""
    text = lmm.model.config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    crossed = [block for block in lmm.layers if hasattr(block, "cross_attn")]
    kv = 2 * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head_dim
    seen = _cross_tokens(lmm, picture) if crossed else 0
    once = sum(m.weight.numel() for block in crossed for m in _cross_kv(block))
    head = lmm.model.get_output_embeddings().weight.numel()
    linear = sum(module.weight.numel() for block in lmm.layers for module in _linear(block))
    itemsize = lmm.dtype.itemsize
    return Costs(
        parameters=linear - once + head,
        head=head,
        itemsize=itemsize,
        kv_bytes=(len(lmm.layers) - len(crossed)) * kv * itemsize,
        picture_bytes=len(crossed) * kv * itemsize * seen,
        picture_flop=_vision_flop(lmm, picture) + 2 * once * seen,
        attention=(len(lmm.layers) - len(crossed)) * text.num_attention_heads * head_dim,
    )


def _linear(block: nn.Module) -> Iterator[Any]:
    return (module for module in block.modules() if isinstance(module, nn.Linear))


def _cross_kv(block: Any) -> tuple[Any, Any]:
    return block.cross_attn.k_proj, block.cross_attn.v_proj


def _cross_tokens(lmm: Lmm, picture: PreparedPicture) -> int:
    """Tokens of a picture's own tiles; padding tiles need not be read."""
    eyes = lmm.model.config.vision_config
    tiles = int(picture.features["aspect_ratio_mask"].sum())
    return tiles * ((eyes.image_size // eyes.patch_size) ** 2 + 1)


@torch.inference_mode()
def _vision_flop(lmm: Lmm, picture: PreparedPicture) -> float:
    """FLOP of one forward pass outside the decoder and the head, as torch counts them."""
    inputs = lmm.inputs(["?"], [picture])
    # The fused attention kernels of some devices are not counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        lmm.model(**inputs, use_cache=False)
    counted = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    decoder = sum(
        flop
        for name, flop in counted.items()
        if name.endswith((".language_model", ".text_model", ".lm_head"))
    )
    return float(counted["Global"] - decoder)


def load(lmm: Lmm, work: Workload, slots: int) -> Load:
    """What a workload asks of a model, its prompts as token ids."""
    picture = lmm.prepare(next(iter(work.pictures.values())))
    placeholder = lmm.tokenizer.convert_tokens_to_ids(lmm.image_token)
    prompts = list(dict.fromkeys(request.prompt for request in work.requests))
    ids = [lmm.token_ids(prompt, picture.shown) for prompt in prompts]
    shared = max((at + 1 for at, token in enumerate(ids[0]) if token == placeholder), default=0)
    pictures = len({request.image_id for request in work.requests})
    prefixes, suffixes = pictures, [len(row) - shared for row in ids] * pictures
    if lmm.family.name in ACROSS_SEEDS_ONLY:
        prefixes, shared = pictures * len(ids), sum(map(len, ids)) // len(ids)
        suffixes = [0] * prefixes
    return Load(work.lengths, pictures, prefixes, shared, suffixes, slots)


def rates(lmm: Lmm, slots: int) -> Rates:
    """The device's copy bandwidth and its matrix product rates in the model's dtype."""
    device = lmm.device
    first = [module.weight for module in _linear(lmm.layers[0])]
    every = [module.weight for block in lmm.layers for module in _linear(block)]
    every.append(lmm.model.get_output_embeddings().weight)
    return Rates(
        bytes_per_second=_copy_rate(device),
        flop_per_second=_product_rate(device, first, MANY_ROWS.get(device.kind, 8192)),
        flop_per_second_at_slots=_product_rate(device, every, slots),
    )


def _copy_rate(device: Device) -> float:
    size = COPY_BYTES.get(device.kind, 1 << 31)
    source = torch.ones(size, dtype=torch.uint8, device=device.torch_device())
    sink = torch.empty_like(source)
    return 2 * size / _fastest(device, lambda: sink.copy_(source))


@torch.inference_mode()
def _product_rate(device: Device, weights: list[Any], rows: int) -> float:
    shapes = {(weight.shape[1], weight.dtype) for weight in weights}
    inputs = {
        width: torch.randn(rows, width, device=device.torch_device()).to(dtype)
        for width, dtype in shapes
    }

    def products() -> None:
        for weight in weights:
            nn.functional.linear(inputs[weight.shape[1]], weight)

    flop = sum(2 * rows * weight.numel() for weight in weights)
    return flop / _fastest(device, products)


def _fastest(device: Device, work: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of a few runs, the first left out."""
    taken = []
    for _ in range(repeats + 1):
        device.synchronize()
        start = time.perf_counter()
        work()
        device.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])
