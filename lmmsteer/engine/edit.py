"""What a method changes in a generation, as data. Methods make it, engines apply it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ResidualAblation:
    """Directions that are removed from every residual: block inputs, attention and MLP outputs.

    r' = r - alpha A^T (A r). directions A: [k, d_model] float32, orthonormal rows; alpha in [0, 1]
    removes a share of the component, 1 all of it.
    Source: Ratzlaff et al. 2024 (arXiv 2411.12590), section 3.1; Arditi et al. 2024
    (arXiv 2406.11717).
    """

    directions: Tensor
    alpha: float = 1.0


@dataclass(frozen=True)
class Edit:
    """Everything a method changes; the empty edit leaves the model as it is.

    prompts: the prompt to show for each request, in the requests' order (None: as they are).
    residual: directions ablated from the decoder's residual stream (None: none).
    """

    prompts: tuple[str, ...] | None = None
    residual: ResidualAblation | None = None
