"""The serial roofline: the least time in which a device could answer a workload.

seconds = prefill FLOP / peak + steps x max(weight bytes / bandwidth, matrix FLOP / peak)
        + bytes of keys and values read / bandwidth

Layers follow one another, so the terms do not overlap. A picture's prefix is encoded, prefilled and
in each step read once for all its rows; slots are refilled at once. 100% is not reachable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """What this device does, measured in this run.

    bytes_per_second: reading and writing of a copy. flop_per_second: matrix products of many rows
    in the model's dtype. flop_per_second_at_slots: of as many rows as there are slots, through all
    of the model's weights.
    """

    bytes_per_second: float
    flop_per_second: float
    flop_per_second_at_slots: float

    @property
    def peak(self) -> float:
        """The higher of the two: what bounds every matrix product."""
        return max(self.flop_per_second, self.flop_per_second_at_slots)


@dataclass(frozen=True)
class Costs:
    """What a model costs, counted from its weights.

    parameters: linear ones used for each decoded token, the head's included; head: the head's.
    itemsize: bytes of a number. kv_bytes: keys and values of one token in all layers.
    picture_bytes: keys and values read from a picture outside the text (cross-attention).
    picture_flop: vision tower and projector for one picture, cross-attention keys and values
    included. attention: attended width of all layers, sum of heads x head_dim.
    """

    parameters: int
    head: int
    itemsize: int
    kv_bytes: int
    picture_bytes: int
    picture_flop: float
    attention: int


@dataclass(frozen=True)
class Load:
    """What is asked of it.

    lengths: new tokens of each row. pictures: distinct ones. prefixes: text prefixes that rows
    share, of `prefix` tokens each, the picture's included. suffixes: tokens that follow, one entry
    for each distinct prompt of each picture. slots: rows answered at a time.
    """

    lengths: Sequence[int]
    pictures: int
    prefixes: int
    prefix: int
    suffixes: Sequence[int]
    slots: int


def prefill_flop(costs: Costs, load: Load) -> float:
    """Every picture, every prefix and every prompt once; a multiplication and an addition are two.

    Linear layers 2 x parameters x tokens; causal attention 4 x width x (keys before the token).
    """
    layers = costs.parameters - costs.head
    prefix = 2 * layers * load.prefix + 4 * costs.attention * load.prefix**2 / 2
    total = load.pictures * costs.picture_flop + load.prefixes * prefix
    for tokens in load.suffixes:
        total += 2 * layers * tokens + 2 * costs.head
        total += 4 * costs.attention * tokens * (load.prefix + tokens / 2)
    return total


def kv_bytes(costs: Costs, load: Load) -> float:
    """Keys and values read in all decode steps: own tokens by each row, prefixes once a step."""
    suffix = sum(load.suffixes) / max(1, len(load.suffixes))
    own = sum((n - 1) * suffix + n * (n - 1) / 2 for n in load.lengths)
    rows_per_prefix = len(load.lengths) / load.prefixes
    rows_per_picture = len(load.lengths) / load.pictures
    decoded = sum(n - 1 for n in load.lengths)
    shared = load.prefix * costs.kv_bytes / rows_per_prefix + costs.picture_bytes / rows_per_picture
    return own * costs.kv_bytes + decoded * shared


def steps(load: Load) -> float:
    """Decode steps with every slot always busy; the first token comes from the prefill."""
    rows = min(load.slots, len(load.lengths))
    return max(sum(n - 1 for n in load.lengths) / rows, max(load.lengths) - 1)


def seconds(costs: Costs, load: Load, rates: Rates) -> dict[str, float]:
    """The serial roofline by part: prefill, weights (or matrix products), kv, and their total."""
    rows = sum(n - 1 for n in load.lengths) / max(1.0, steps(load))
    step = max(
        costs.parameters * costs.itemsize / rates.bytes_per_second,
        2 * costs.parameters * rows / rates.peak,
    )
    parts = {
        "prefill": prefill_flop(costs, load) / rates.peak,
        "weights": steps(load) * step,
        "kv": kv_bytes(costs, load) / rates.bytes_per_second,
    }
    return {**parts, "total": sum(parts.values())}
