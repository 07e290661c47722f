"""Puts an edit into a model for a while, and takes it out again.

Hooks are counted: as many are placed as the model has residual points, and each must have fired.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from lmmsteer.engine.edit import Edit
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.models.lmm import Lmm, ResidualPoint

PLACES = 3  # Block input, attention output, MLP output.


def ablate(r: Tensor, directions: Tensor, alpha: float = 1.0) -> Tensor:
    """Remove from every residual its component in the span of the directions, or a share of it.

    r' = r - alpha A^T (A r). Idempotent for alpha = 1; never raises the norm for alpha in [0, 1].

    r: [..., d_model]; directions A: [k, d_model], orthonormal rows, dtype and device of r.
    Source: Ratzlaff et al. 2024 (arXiv 2411.12590), section 3.1, "Test-Time Steering".
    """
    if directions.shape[0] == 1:
        along = (r @ directions[0]).unsqueeze(-1)  # [..., 1]
        return torch.addcmul(r, along, directions[0], value=-alpha)
    return r - alpha * ((r @ directions.T) @ directions)


class _Ablation:
    """One hook: ablates what passes its point, and counts how often that was."""

    def __init__(self, point: ResidualPoint, directions: Tensor, alpha: float) -> None:
        self.point = point
        self.directions = directions
        self.alpha = alpha
        self.fired = 0

    def place(self) -> Any:
        module = self.point.module
        if self.point.place == "block_input":
            return module.register_forward_pre_hook(self.before, with_kwargs=True)
        return module.register_forward_hook(self.after)

    def before(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (self._apply(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._apply(kwargs["hidden_states"])}

    def after(self, _: Any, args: tuple[Any, ...], output: Any) -> Any:
        # transformers 4 and 5 differ in which modules return a tuple.
        if isinstance(output, tuple):
            return (self._apply(output[0]), *output[1:])
        return self._apply(output)

    def _apply(self, r: Tensor) -> Tensor:
        self.fired += 1
        if self.directions.dtype != r.dtype or self.directions.device != r.device:
            self.directions = self.directions.to(r.device, r.dtype)
        return ablate(r, self.directions, self.alpha)


@contextmanager
def installed(lmm: Lmm, edit: Edit) -> Iterator[None]:
    """The model under an edit, for the length of a `with` block; untouched afterwards.

    Raises: LmmsteerError where the model has no residual stream to edit, the directions have
    another width, hooks placed are not the hooks asked for, or an edit is installed already;
    RunFailed at the end of the block if some hook never fired.
    """
    if edit.residual is None:
        yield
        return
    _check(lmm, edit.residual.directions)
    directions = edit.residual.directions.to(lmm.device.torch_device(), lmm.dtype)
    hooks = [_Ablation(p, directions, edit.residual.alpha) for p in lmm.residual_points()]
    with ExitStack() as placed:
        for hook in hooks:
            placed.callback(hook.place().remove)
        yield
    silent = [f"layer {h.point.layer} {h.point.place}" for h in hooks if not h.fired]
    if silent:
        raise RunFailed(
            f"The edit was not applied at {len(silent)} of {len(hooks)} places "
            f"({', '.join(silent[:3])}): the model never ran those modules.",
            "Its answers must not be used; the family's record in models/families.py may be wrong",
        )


def _check(lmm: Lmm, directions: Tensor) -> None:
    if not lmm.family.pre_norm_residual:
        raise LmmsteerError(
            f"The decoder of {lmm.family.name} models has no pre-norm residual stream, so "
            "directions cannot be ablated from it.",
            "Use a method that edits prompts or logits",
        )
    if directions.ndim != 2 or directions.shape[1] != lmm.d_model:
        raise LmmsteerError(
            f"Directions of shape {list(directions.shape)} do not fit {lmm.name}, whose residual "
            f"stream is {lmm.d_model} wide.",
            "Fit directions on this model: lmmsteer fit",
        )
    points = lmm.residual_points()
    asked = PLACES * lmm.model.config.get_text_config().num_hidden_layers
    distinct = {(id(p.module), p.place == "block_input") for p in points}
    if not len(points) == len(distinct) == asked:
        raise LmmsteerError(
            f"{asked} places of {lmm.name} were to be edited and {len(distinct)} were found.",
            "The family's record in models/families.py does not fit this model",
        )
    for point in points:
        hooks = (*point.module._forward_hooks.values(), *point.module._forward_pre_hooks.values())
        if any(isinstance(getattr(hook, "__self__", None), _Ablation) for hook in hooks):
            raise LmmsteerError(
                f"Another edit is still installed in {lmm.name}.", "Leave its `with` block first"
            )
