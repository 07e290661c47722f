"""Marks where lazy mode would send what it has gathered to the card."""

from habana_frameworks.torch import hpu as hpu

steps = 0


def mark_step(*_: object, **__: object) -> None:
    global steps
    steps += 1
