"""Where a run's time went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Stats:
    """Seconds for each stage, and counts. wait: the device had nothing to do, for want of pictures.

    busy: rows decoding, summed over the steps. first_token_seconds: mean from the start to a row's
    first token. fallback: slots that memory did not suffice for. graphs: steps recorded for replay;
    compiled: graphs that Gaudi's compiler made, prefill and all; warmed: those of `graphs` and
    `compiled`, whichever are more, that were made before the first answer, which took `warm`
    seconds.
    """

    vision: float = 0.0
    prefix: float = 0.0
    suffix: float = 0.0
    decode: float = 0.0
    wait: float = 0.0
    steps: int = 0
    busy: int = 0
    tokens: int = 0
    encoded: int = 0
    prefixes: int = 0
    suffixes: int = 0
    slots: int = 0
    lanes: int = 0
    first_token_seconds: float = 0.0
    rows: int = 0
    why: str = ""
    fallback: tuple[int, ...] = ()
    graphs: int = 0
    compiled: int = 0
    warm: float = 0.0
    warmed: int = 0

    def recorded(self) -> None:
        """One more step is recorded."""
        self.graphs += 1

    def first_token(self, seconds: float) -> None:
        """One more row has its first token."""
        self.rows += 1
        self.first_token_seconds += (seconds - self.first_token_seconds) / self.rows
