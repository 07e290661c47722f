"""Where a run's time went."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Stats:
    """Seconds for each stage, and counts. wait: the device had nothing to do, for want of pictures.

    busy: rows decoding, summed over the steps. first_tokens: seconds to each row's first token.
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
    peak_bytes: int = 0
    first_tokens: list[float] = field(default_factory=list)

    @property
    def first_token_seconds(self) -> float:
        """Mean seconds from the start of generate to a row's first token."""
        return sum(self.first_tokens) / max(1, len(self.first_tokens))
