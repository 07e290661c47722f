"""Rules for logits at work: their tensors on the device, and what they remember of every slot."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lmmsteer.engine.edit import Draw, Rule


def front(whole: Tensor, size: int) -> Tensor:
    """The first `size` rows; all of them as they are, as recorded steps may not write to views."""
    return whole if size == len(whole) else whole[:size]


class Remembering:
    """The rules of an edit, and a memory for each slot, in the same place from step to step.

    dense: rules compute every row (captured steps, strict mode).
    """

    def __init__(self, slots: int, device: torch.device) -> None:
        self.slots, self.device = slots, device
        self.rules: tuple[Rule, ...] = ()
        self.memories: list[Tensor] = []  # [slots, n] int64
        self.numbers: list[Tensor | None] = []  # [slots, ...], what `apply` wants as `of`
        self.given: list[Tensor | None] = []  # [requests, ...], the rules' own

    def begin(self, rules: Sequence[Rule]) -> bool:
        """From now on these; False where they are in the memory that a captured step knows."""
        known = len(rules) == len(self.rules)
        old = self.rules if known else (None,) * len(rules)
        made = [resident(new, of, self.device) for new, of in zip(rules, old, strict=True)]
        self.given = [rule.rows for rule in rules]
        self.rules = tuple(rule for rule, _ in made)
        if known and all(same for _, same in made):
            return False
        self.memories = [rule.start(self.slots, self.device) for rule in self.rules]
        self.numbers = [
            None if x is None else x.new_zeros((self.slots, *x.shape[1:])).to(self.device)
            for x in self.given
        ]
        return True

    def of(self, which: int, requests: Sequence[int]) -> Tensor | None:
        """The numbers of a rule for some requests. [rows, ...]"""
        given = self.given[which]
        return None if given is None else given[torch.tensor(requests)].to(self.device)

    def join(self, at: Tensor, requests: Sequence[int], tokens: Tensor) -> None:
        """Slots begin with rows that have said one token each."""
        for which, rule in enumerate(self.rules):
            begun = rule.start(len(requests), self.device)
            self.memories[which][at] = rule.advance(begun, tokens)
            if (numbers := self.of(which, requests)) is not None:
                held = self.numbers[which]
                assert held is not None
                held[at] = numbers

    def first(self, logits: Tensor, requests: Sequence[int], draw: Draw, *, dense: bool) -> Tensor:
        """The logits of rows that have said nothing. [rows, vocab] float32."""
        for which, rule in enumerate(self.rules):
            begun = rule.start(len(requests), self.device)
            logits = rule.apply(logits, begun, self.of(which, requests), dense=dense, draw=draw)
        return logits

    def apply(self, logits: Tensor, draw: Draw, *, dense: bool) -> Tensor:
        """The logits of the first slots. [rows, vocab] float32."""
        size = len(logits)
        for rule, memory, of in zip(self.rules, self.memories, self.numbers, strict=True):
            of = None if of is None else of[:size]
            logits = rule.apply(logits, memory[:size], of, dense=dense, draw=draw)
        return logits

    def advance(self, tokens: Tensor) -> None:
        """The first slots' rows have said one more token each."""
        for rule, memory in zip(self.rules, self.memories, strict=True):
            held = front(memory, len(tokens))
            held.copy_(rule.advance(held, tokens))

    def move(self, source: int, to: int) -> None:
        for held in (*self.memories, *self.numbers):
            if held is not None:
                held[to] = held[source]


def structure_of(rule: Rule) -> Hashable:
    """What a captured step depends on besides tensors' values and the number of requests."""
    return structure(_bare(rule))


def structure(value: Any) -> Hashable:
    """The same of any part of a rule."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple(structure(getattr(value, f.name)) for f in fields(value))
    if isinstance(value, Mapping):
        return tuple((name, structure(x)) for name, x in sorted(value.items()))
    if isinstance(value, (tuple, list)):
        return tuple(map(structure, value))
    return value


def resident(new: Any, old: Any, device: torch.device) -> tuple[Any, bool]:
    """A rule with its tensors on the device, and whether they lie where the old one's did.

    Where the structure is the old one's, its memory is written over. Numbers by request (`rows`)
    are no part of it: their count changes with the shard.
    """
    if old is None or structure_of(new) != structure_of(old):
        return _mapped(new, lambda x, _: x.to(device, copy=True), None), False
    return _mapped(new, lambda x, o: o.copy_(x) if x.shape == o.shape else x.to(device), old), True


def _bare(rule: Any) -> Any:
    """A rule without its numbers by request."""
    rows = rule.rows
    if rows is None:
        return rule
    whose = {f.name: rows[:0] for f in fields(rule) if getattr(rule, f.name) is rows}
    return replace(rule, **whose)


def _mapped(new: Any, each: Any, old: Any) -> Any:
    if isinstance(new, Tensor):
        return each(new, old)
    if is_dataclass(new) and not isinstance(new, type):
        made = {
            f.name: _mapped(getattr(new, f.name), each, old and getattr(old, f.name))
            for f in fields(new)
        }
        return replace(new, **made)
    if isinstance(new, Mapping):
        return {name: _mapped(x, each, old and old[name]) for name, x in new.items()}
    if isinstance(new, (tuple, list)):
        olds = old or [None] * len(new)
        return tuple(_mapped(x, each, o) for x, o in zip(new, olds, strict=True))
    return new
