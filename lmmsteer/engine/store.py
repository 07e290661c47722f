"""Keys and values of the shared engine: prefixes by lane, own tokens by slot.

A lane holds one picture's prefix under one edit; a slot one row's own tokens. transformers sees a
cache that hands back what it is given (`Passing`): what is kept, and where, is the works' affair.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from lmmsteer.engine import pages
from lmmsteer.engine.attention import length_bias

Pair = tuple[Tensor, Tensor]


class _Layer:
    """One layer of `Passing`, as far as models look at it."""

    is_initialized = True
    is_compileable = False

    def __init__(self, like: Tensor) -> None:
        self.keys = self.values = like

    def get_seq_length(self) -> int:
        return 1


class Passing(Cache):
    """A cache as transformers' decoders call it; keys and values pass through untouched.

    cached: cross-attention layers believe that theirs are there, as they are in a lane.
    """

    is_compileable = False  # type: ignore[assignment]
    is_initialized = True  # type: ignore[assignment]

    def __init__(self, layers: int, like: Tensor) -> None:
        # transformers' own would make storage; of it only the type is wanted.
        self.layers = [_Layer(like) for _ in range(layers)]  # type: ignore[assignment]

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> Pair:
        return key, value

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 1

    def __len__(self) -> int:
        return len(self.layers)


class Lanes:
    """Prefixes: for each layer keys and values [lanes, kv_heads, room, head_dim].

    Layers are made when they are first written, since only then their shapes are known. A lane's
    length says how many of its keys are there; cross-attention layers have lengths of their own.
    block: the room is a multiple of it (strict mode's chunk). gathers: lanes are always picked by a
    tensor, since on Gaudi cards a slice from elsewhere is another graph. moved: memory is another
    than it was when this was last set to False.
    """

    def __init__(
        self, lanes: int, device: torch.device, block: int | None = None, gathers: bool = False
    ) -> None:
        self.block, self.gathers = block or 1, gathers
        self.lengths = torch.ones(lanes, dtype=torch.long, device=device)
        self.kept: dict[int, Pair] = {}
        self.cross: dict[int, Tensor] = {}
        self.moved = False
        self._tokens = [0] * lanes  # 0: never filled; its zeros are harmless, no mask is needed.

    def __len__(self) -> int:
        return len(self._tokens)

    def set_lengths(self, lanes: Sequence[int], tokens: int) -> None:
        """The prefixes that these lanes are going to hold have so many tokens."""
        for lane in lanes:
            self._tokens[lane] = tokens
        self.lengths[torch.tensor(lanes, device=self.lengths.device)] = tokens

    def longest(self, lanes: Sequence[int]) -> int:
        return max(self._tokens[lane] for lane in lanes)

    def pick(self, lanes: Sequence[int]) -> slice | Tensor:
        """These lanes (ascending): a slice where they stand together, which costs no copy."""
        if lanes[-1] - lanes[0] + 1 == len(lanes) and not self.gathers:
            return slice(lanes[0], lanes[-1] + 1)
        return torch.tensor(lanes, device=self.lengths.device)

    def write(self, layer: int, lanes: Sequence[int], key: Tensor, value: Tensor) -> None:
        """Keep prefixes. key, value: [len(lanes), kv_heads, tokens, head_dim]."""
        tokens = key.shape[2]
        room = -(-tokens // self.block) * self.block
        if layer not in self.kept:
            shape = (len(self), key.shape[1], 0, key.shape[3])
            none = key.new_zeros(shape), value.new_zeros(shape)
            self.kept[layer] = (_grown_keys(none[0], room), _grown(none[1], room))
            self.moved = True
        elif self.kept[layer][0].shape[2] < room:
            key_store, value_store = self.kept[layer]
            self.kept[layer] = (_grown_keys(key_store, room), _grown(value_store, room))
            self.moved = True
        at = torch.tensor(lanes, device=key.device)
        for store, new in zip(self.kept[layer], (key, value), strict=True):
            store[at, :, :tokens] = new

    def move(self, source: int, to: int) -> None:
        """Copy a lane to another, in every layer."""
        self._tokens[to] = self._tokens[source]
        for lengths in (self.lengths, *self.cross.values()):
            lengths[to] = lengths[source]
        for pair in self.kept.values():
            for store in pair:
                store[to] = store[source]

    def clear(self, lane: int) -> None:
        """Nothing of a prefix that was not finite stays."""
        for pair in self.kept.values():
            for store in pair:
                store[lane] = 0

    def room(self) -> int:
        """Tokens that fit into a lane of the self-attention layers."""
        return (
            max(self._tokens)
            if not self.kept
            else max(
                pair[0].shape[2] for layer, pair in self.kept.items() if layer not in self.cross
            )
        )

    def ragged(self, keys: int, lanes: slice | Tensor | None = None) -> bool:
        """Whether some prefix is shorter than `keys`, so that a mask is needed."""
        picked = (
            lanes.tolist() if isinstance(lanes, Tensor) else range(len(self))[lanes or slice(None)]
        )
        return self.block > 1 or any(0 < self._tokens[at] < keys for at in picked)

    def bias(self, layer: int, lanes: slice | Tensor, keys: int) -> Tensor | None:
        """The mask of lanes' missing keys, where one is missing."""
        if layer in self.cross:
            return length_bias(self.cross[layer][lanes], keys)
        return length_bias(self.lengths[lanes], keys) if self.ragged(keys, lanes) else None


class Own:
    """Rows' own tokens: for each layer keys and values [slots, kv_heads, room, head_dim].

    The room is what the longest row so far needed (`reach`), in steps, at most what the longest
    may need (`ensure`): memory follows the answers, not the limit. by_token: a slot's tokens lie in
    memory one behind the other, all heads together, as a card's kernel reads them. at_once: all
    that rows may need is taken at the start, so that recorded steps find it where it was. packed:
    rows stand in front and calls are as large as there are rows; on a processor the memory is then
    reserved at once and becomes real where tokens are written, so that nothing is ever copied.
    large: so many bytes may the keys of a layer (and its values) take in large pages, which are
    faster to read, but real for a whole slot with its first token.
    """

    STEP = 64
    AHEAD = 32  # Tokens whose memory is made real together.

    def __init__(
        self,
        slots: int,
        device: torch.device,
        block: int | None = None,
        at_once: bool = False,
        packed: bool = False,
        large: int = 0,
    ) -> None:
        self.slots, self.room, self.most = slots, 0, 0
        self.large = large
        self.reserves = packed and device.type == "cpu"
        self.used = slots  # Slots that hold rows: what must be copied where memory moves.
        self.by_token = device.type == "cuda"
        self.at_once = at_once
        self.block = block or self.STEP
        self.kept: dict[int, Pair] = {}
        self.lengths = torch.zeros(slots, dtype=torch.long, device=device)
        self.rows = torch.arange(slots, device=device)
        self.longest = 0
        self._moved = False
        self._reached = 0
        self._places: dict[tuple[int, int], Tensor] = {}

    def ensure(self, tokens: int) -> None:
        """Rows may come to hold so many tokens; with `at_once` their memory is taken now."""
        self.most = max(self.most, -(-tokens // self.block) * self.block)
        at_once = self.by_token or self.at_once or self.reserves
        if at_once and self.most > self.room:
            self._grow(self.most)

    def open(self, lanes: Lanes) -> None:
        """Take the memory of every layer whose prefixes lanes hold: a recorded step that made it
        would make it anew at every replay.
        """
        for layer, (key, value) in lanes.kept.items():
            if layer not in lanes.cross:
                self._layer(layer, key, value)

    def reach(self, tokens: int, *, exact: bool = True) -> bool:
        """Rows are about to hold so many tokens, no row more; True where memory has moved.

        exact: read no further than that; else to the end of the block.
        """
        self.longest = tokens if exact else -(-tokens // self.block) * self.block
        self._hold(self.longest)
        self._places.clear()
        moved, self._moved = self._moved, False
        return moved

    def look_ahead(self, rows: int) -> None:
        """Every AHEAD calls: make real the reserved memory of the first rows' next AHEAD tokens.

        Page by page, amid the steps that first write to them, it takes several times as long.
        """
        self._reached += 1
        if not self.reserves or (self._reached - 1) % self.AHEAD:
            return
        for pair in self.kept.values():
            for store in pair:
                _, _, room, width = store.shape
                apart = max(1, mmap.PAGESIZE // (width * store.element_size()))
                ahead = torch.arange(0, self.AHEAD + apart, apart)
                tokens = (self.lengths[:rows, None] + ahead).clamp_(max=room - 1)
                index = self._index(tokens, store.shape[1]).mul_(width)
                store.view(-1).index_fill_(0, index.view(-1), 0)

    def _index(self, tokens: Tensor, kv_heads: int) -> Tensor:
        """Where tokens of the first rows lie, as if each were a number. [rows, n] -> [rows, ...]"""
        rows = self.rows[: len(tokens), None, None] * kv_heads
        heads = torch.arange(kv_heads, device=tokens.device)[:, None]
        return (rows + heads) * self.room + tokens[:, None]

    def _hold(self, tokens: int) -> None:
        if tokens > self.room:
            wanted = -(-max(tokens, 2 * self.room) // self.block) * self.block
            self._grow(max(min(self.most, wanted), tokens))

    def _grow(self, room: int) -> None:
        self.room, self._moved = room, True
        self.kept = {layer: self._both(pair, room) for layer, pair in self.kept.items()}

    def put(
        self, slots: Sequence[int], kept: dict[int, Pair], rows: Sequence[int], lengths: list[int]
    ) -> None:
        """Begin slots with suffixes: row rows[i] of `kept` goes into slot slots[i]."""
        into = torch.tensor(slots, device=self.rows.device)
        self.lengths[into] = into.new_tensor(lengths)
        if not kept:
            return
        longest = max(lengths)
        self._hold(longest)
        if self.reserves:  # More room may be wanted before the next step.
            self.longest = max(self.longest, longest)
        of = into.new_tensor(rows)
        for layer, pair in kept.items():
            for store, new in zip(self._layer(layer, *pair), pair, strict=True):
                store[into, :, :longest] = new[of, :, :longest]

    def append(self, layer: int, key: Tensor, value: Tensor) -> None:
        """One token for each of the first rows, once for each layer between two calls of `reach`.
        key, value: [rows, kv_heads, 1, head_dim].
        """
        count, kv_heads = key.shape[:2]
        rows, at = self.rows[:count], self.lengths[:count]
        if self.reserves and (count, kv_heads) not in self._places:
            self._places[count, kv_heads] = self._index(at[:, None], kv_heads).view(-1)
        for store, new in zip(self._layer(layer, key, value), (key, value), strict=True):
            if self.reserves:
                width = store.shape[3]
                places = self._places[count, kv_heads]
                store.view(-1, width)[places] = new.reshape(-1, width)
            else:
                store[rows, :, at] = new[:, :, 0]

    def _layer(self, layer: int, key: Tensor, value: Tensor) -> Pair:
        if layer not in self.kept:
            pair = tuple(x.new_zeros(self.slots, x.shape[1], 0, x.shape[3]) for x in (key, value))
            self.kept[layer] = self._both((pair[0], pair[1]), self.room)
        return self.kept[layer]

    def _both(self, pair: Pair, room: int) -> Pair:
        if self.reserves:
            return self._reserved(pair[0], room), self._reserved(pair[1], room)
        return (
            _grown(pair[0], room, self.by_token),
            _grown(pair[1], room, self.by_token),
        )

    def _reserved(self, store: Tensor, room: int) -> Tensor:
        slots, kv_heads, before, head_dim = store.shape
        shape = (slots, kv_heads, room, head_dim)
        slot = kv_heads * room * head_dim * store.element_size()
        # Where slots share a large page, it would be real for many of them with one's first token.
        large = 2 * slot >= pages.LARGE and slots * slot <= self.large
        larger = pages.zeros(shape, store.dtype, large=large)
        tokens = min(before, self.longest)
        larger[: self.used, :, :tokens] = store[: self.used, :, :tokens]
        return larger

    def move(self, source: int, to: int, length: int) -> None:
        """Copy a slot to another."""
        self.lengths[to] = self.lengths[source]
        for pair in self.kept.values():
            for store in pair:
                store[to, :, :length] = store[source, :, :length]

    def clear(self, slot: int) -> None:
        """Nothing of a row that was not finite stays."""
        tokens = self.longest if self.reserves else self.room
        for pair in self.kept.values():
            for store in pair:
                store[slot, :, :tokens] = 0


def _grown_keys(store: Tensor, room: int) -> Tensor:
    """As `_grown`; on a processor the tokens of one dimension lie side by side, since products of
    few queries with keys are faster so.
    """
    if store.device.type != "cpu":
        return _grown(store, room)
    lanes, kv_heads, used, head_dim = store.shape
    shape = (lanes, kv_heads, head_dim, room)
    larger = pages.zeros(shape, store.dtype, large=True).transpose(2, 3)
    if used:
        larger[:, :, :used] = store
    return larger


def _grown(store: Tensor, room: int, by_token: bool = False) -> Tensor:
    rows, kv_heads, used, head_dim = store.shape
    if by_token:
        larger = store.new_zeros(rows, room, kv_heads, head_dim).transpose(1, 2)
    elif store.device.type == "cpu":
        larger = pages.zeros((rows, kv_heads, room, head_dim), store.dtype, large=True)
    else:
        larger = store.new_zeros(rows, kv_heads, room, head_dim)
    if used:
        larger[:, :, :used] = store
    return larger
