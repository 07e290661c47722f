"""What a method changes in a generation, as data. Methods make it, engines apply it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ResidualAblation:
    """Directions that are removed from every residual: block inputs, attention and MLP outputs.

    r' = r - alpha A^T (A r). alpha in [0, 1] removes a share of the component, 1 all of it.

    directions A: [k, d_model] float32, orthonormal rows, for all rows; or [sets, k, d_model], or
    [sets, n_layers, k, d_model] where each layer has its own; a zero direction removes nothing.
    of: the set of each request, in the requests' order (None: all use set 0). The rows of a
    picture that use one set share its prefix.
    Source: Ratzlaff et al. 2024 (arXiv 2411.12590), section 3.1; Arditi et al. 2024
    (arXiv 2406.11717).
    """

    directions: Tensor
    alpha: float = 1.0
    of: tuple[int, ...] | None = None

    @property
    def d_model(self) -> int:
        return self.directions.shape[-1]

    @property
    def sets(self) -> Tensor:
        """The directions as [sets, n_layers or 1, k, d_model]."""
        d = self.directions
        if d.ndim == 2:
            return d[None, None]
        return d[:, None] if d.ndim == 3 else d

    def set_of(self, row: int) -> int:
        return 0 if self.of is None else self.of[row]


@dataclass(frozen=True)
class FeatureEdit:
    """A change of the picture's projected features, one dimension at a time.

    f' = f * scale + shift. scale, shift: [d_model] float32. Scale 0 drops a dimension (CLIP-clip),
    scale 0 with a shift imputes a value (SFID). The vision tower is not run again for it.
    """

    scale: Tensor
    shift: Tensor

    def apply(self, features: Tensor) -> Tensor:
        """features: [..., d_model], any dtype; computed in float32."""
        scale, shift = (x.to(features.device, torch.float32) for x in (self.scale, self.shift))
        return (features.float() * scale + shift).to(features.dtype)


@dataclass(frozen=True)
class Contrast:
    """Streams of every row that do not see the picture; what they would say is held against it.

    z' = (1 + alpha) z - alpha z_c for tokens with z >= max z + log(beta), -inf for the others; z_c:
    the mean of the streams' logits, behind the same tokens. On raw logits, before any bias.

    streams: `removed` (the picture's tokens are left out), `unknown` (they are the unknown token).
    beta 0 leaves every token in.
    Source: Zhang et al. 2024 (arXiv 2403.05262).
    """

    alpha: float = 1.0
    beta: float = 0.1
    streams: tuple[str, ...] = ("removed",)

    def mix(self, logits: Tensor, others: Tensor) -> Tensor:
        """logits: [rows, vocab] float32; others: [streams, rows, vocab]."""
        mixed = (1 + self.alpha) * logits - self.alpha * others.mean(0)
        if self.beta == 0:
            return mixed
        floor = logits.amax(-1, keepdim=True) + math.log(self.beta)
        return mixed.masked_fill(logits < floor, -torch.inf)


@dataclass(frozen=True)
class Edit:
    """Everything a method changes; the empty edit leaves the model as it is.

    prompts: the prompt to show for each request, in the requests' order (None: as they are).
    residual: directions ablated from the decoder's residual stream (None: none).
    features: what is done to the picture's projected features.
    bias: added to the logits before temperature, top-k and top-p, z' = z + bias; -inf forbids a
    token. [vocab] float32. contrast: streams whose logits are held against a row's.
    """

    prompts: tuple[str, ...] | None = None
    residual: ResidualAblation | None = None
    features: FeatureEdit | None = None
    bias: Tensor | None = None
    contrast: Contrast | None = None

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams of a row beside its own."""
        return () if self.contrast is None else self.contrast.streams

    def biased(self, logits: Tensor) -> Tensor:
        """float32 logits with the bias. logits: [rows, vocab]."""
        if self.bias is None:
            return logits.float()
        return logits.float() + self.bias.to(logits.device)

    def set_of(self, row: int) -> int:
        """The set of directions that a request uses."""
        return self.residual.set_of(row) if self.residual is not None else 0

    def set_count(self) -> int:
        return 1 if self.residual is None else len(self.residual.sets)


def check_rows(edit: Edit, requests: Sequence[object]) -> None:
    """Refuse an edit whose per-row data is not for these rows.

    Raises: ValueError, since this is a method's mistake and never a user's.
    """
    of = edit.residual.of if edit.residual is not None else None
    for name, given in (("prompts", edit.prompts), ("residual.of", of)):
        if given is not None and len(given) != len(requests):
            raise ValueError(f"Edit.{name} has {len(given)} entries for {len(requests)} rows")
