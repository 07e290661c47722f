"""What is changed in the decoder's residual stream, as data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from lmmsteer.errors import LmmsteerError

SCOPES = ("picture", "prompt", "generated")
EVERYWHERE = frozenset(SCOPES)


@dataclass(frozen=True)
class ResidualEdit:
    """Directions that are removed from every residual, and a vector that is added to block inputs.

    At block inputs, attention and MLP outputs: r' = r - alpha A^T (A r). Then, at block inputs
    alone: r' = r + v; with v = alpha A^T A m that is affine ablation around a mean m. With
    keep_norm, an edited residual is scaled back to the norm it had.

    directions A: [k, d_model] float32, orthonormal rows, for all rows; or [sets, k, d_model], or
    [sets, n_layers, k, d_model] where each layer has its own; a zero direction removes nothing.
    alpha in [0, 1] removes a share of the component, 1 all of it. shift v: shape of A without its
    k axis; sets and layers as in A. of: the set of each request, in the requests' order (None: all
    use set 0). The rows of a picture that use one set share its prefix. scope: which tokens'
    residuals, of the picture's, the prompt's and the generated ones.
    Source: Ratzlaff et al. 2024 (arXiv 2411.12590), section 3.1; Arditi et al. 2024
    (arXiv 2406.11717): ablation, and activation addition at one layer's block input.
    """

    directions: Tensor
    alpha: float = 1.0
    of: tuple[int, ...] | None = None
    shift: Tensor | None = None
    keep_norm: bool = False
    scope: frozenset[str] = EVERYWHERE

    @property
    def d_model(self) -> int:
        return self.directions.shape[-1]

    @property
    def sets(self) -> Tensor:
        """The directions as [sets, n_layers or 1, k, d_model]."""
        return _with_sets(self.directions, 4)

    @property
    def shifts(self) -> Tensor | None:
        """The shifts as [sets, n_layers or 1, d_model]."""
        return None if self.shift is None else _with_sets(self.shift, 3)

    def set_of(self, row: int) -> int:
        return 0 if self.of is None else self.of[row]


def _with_sets(x: Tensor, ndim: int) -> Tensor:
    """A tensor for all rows, by set, or by set and layer, as the last of these."""
    if x.ndim == ndim - 2:
        return x[None, None]
    return x[:, None] if x.ndim == ndim - 1 else x


def check_scope(scope: frozenset[str]) -> None:
    """Raises: LmmsteerError for an empty scope or a name that is none."""
    if not scope or not scope <= EVERYWHERE:
        raise LmmsteerError(
            f"method.scope={sorted(scope)} names no tokens.",
            f"Name some of: {', '.join(SCOPES)}",
        )


def touches_of(scope: Iterable[str] | None) -> frozenset[str]:
    """`picture_scope` where a scope tells the picture's tokens from the prompt's."""
    halves = EVERYWHERE if scope is None else frozenset(scope)
    told_apart = len(halves & {"picture", "prompt"}) == 1
    return frozenset({"picture_scope"}) if told_apart else frozenset()
