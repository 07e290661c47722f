"""Puts an edit into a model for a while, and takes it out again.

Hooks are counted: as many are placed as the model has residual points, and each must have fired.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from lmmsteer.engine.edit import EVERYWHERE, SCOPES, Edit, ResidualEdit
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm, ResidualPoint

PLACES = 3  # Block input, attention output, MLP output.


def ablate(r: Tensor, directions: Tensor, alpha: float = 1.0) -> Tensor:
    """Remove from every residual its component in the span of the directions, or a share of it.

    r' = r - alpha A^T (A r). Idempotent for alpha = 1; never raises the norm for alpha in [0, 1].

    r: [..., d_model]; directions A: [k, d_model], or [rows, k, d_model] for r [rows, tokens,
    d_model], orthonormal rows, dtype and device of r.
    Source: Ratzlaff et al. 2024 (arXiv 2411.12590), section 3.1, "Test-Time Steering".
    """
    if directions.ndim == 3:
        if directions.shape[1] == 1:
            along = (r * directions).sum(-1, keepdim=True)  # [rows, tokens, 1]
            return torch.addcmul(r, along, directions, value=-alpha)
        return r - alpha * ((r @ directions.transpose(1, 2)) @ directions)
    if directions.shape[0] == 1:
        along = (r @ directions[0]).unsqueeze(-1)  # [..., 1]
        return torch.addcmul(r, along, directions[0], value=-alpha)
    return r - alpha * ((r @ directions.T) @ directions)


def with_norm_of(edited: Tensor, r: Tensor) -> Tensor:
    """The edited residuals at the norms of the old ones; where nothing changed, the same bits."""
    before = r.float().norm(dim=-1, keepdim=True)
    after = edited.float().norm(dim=-1, keepdim=True)
    factor = torch.where(after > 0, before / after.clamp_min(1e-30), torch.ones_like(after))
    return (edited.float() * factor).to(r.dtype)


class Directions:
    """What hooks read of a residual edit: one set for all rows, or each row's own.

    Tensors in the model's dtype, on its device, [sets, n_layers or 1, ...]: directions A
    and, where the edit has them, shifts v. by_row: each row's own, even where all rows happen to
    use one set, since the two ways of computing differ in the last bits and a row's may not hang on
    how many pictures its shard has. fired: the places where they were applied; kept here,
    since a step that a card replays calls no hook.
    """

    def __init__(self, residual: ResidualEdit, lmm: Lmm) -> None:
        device = lmm.device.torch_device()
        # Copies: `load` writes here, and the edit's own must stay as they are.
        self.parts = {n: x.to(device, lmm.dtype, copy=True) for n, x in _parts(residual).items()}
        self.alpha, self.keep_norm, self.scope = residual.alpha, residual.keep_norm, residual.scope
        self.by_row = residual.of is not None or len(self.sets) > 1
        self.fired: set[tuple[int, str]] = set()
        self._rows: dict[str, Tensor] = {}  # [rows, n_layers or 1, ...]
        self._slots: dict[str, Tensor] = {}
        self._where: Tensor | bool = True

    @property
    def sets(self) -> Tensor:
        """[sets, n_layers or 1, k, d_model]."""
        return self.parts["directions"]

    @property
    def structure(self) -> tuple[object, ...]:
        """What a captured step depends on: the values may change under it, this may not."""
        shapes = tuple((name, tuple(x.shape[1:])) for name, x in self.parts.items())
        return (self.by_row, shapes, self.alpha, self.keep_norm, self.scope)

    def load(self, residual: ResidualEdit) -> None:
        """Other values of the same structure, in the memory that a captured step reads."""
        self.fired.clear()
        for name, new in _parts(residual).items():
            old = self.parts[name]
            if len(old) == len(new) == 1:
                old.copy_(new)
            else:
                self.parts[name] = new.to(old.device, old.dtype, copy=True)

    def choose(self, of: Sequence[int]) -> None:
        """From now on row i of a batch uses set of[i]."""
        if self.by_row:
            self._rows = self._picked(of)

    def choose_slots(self, of: Sequence[int]) -> None:
        """The same for the rows in slots, in memory that stays where it is."""
        if not self.by_row:
            return
        picked = self._picked(of)
        if {n: x.shape for n, x in self._slots.items()} != {n: x.shape for n, x in picked.items()}:
            self._slots = picked
        else:
            for name, x in picked.items():
                self._slots[name].copy_(x)
        self._rows = self._slots

    def look(self, kinds: str | Tensor) -> None:
        """What the next call's tokens are: all one of SCOPES, or its indices, [rows, tokens]."""
        if self.scope == EVERYWHERE:
            return
        if isinstance(kinds, str):
            self._where = kinds in self.scope
        else:
            inside = torch.tensor([name in self.scope for name in SCOPES], device=kinds.device)
            self._where = inside[kinds].unsqueeze(-1)

    def _picked(self, of: Sequence[int]) -> dict[str, Tensor]:
        at = torch.tensor(of, device=self.sets.device)
        return {name: x.index_select(0, at) for name, x in self.parts.items()}

    def of_layer(self, layer: int, name: str = "directions") -> Tensor | None:
        """[k, d_model] for all rows, or [rows, k, d_model]; shifts likewise."""
        if name not in self.parts:
            return None
        if not self._rows:
            source = self.parts[name][0]
            return source[layer if source.shape[0] > 1 else 0]
        source = self._rows[name]
        return source[:, layer if source.shape[1] > 1 else 0]

    def apply(self, r: Tensor, layer: int, place: str) -> Tensor:
        """The edited residual. r: [rows, tokens, d_model]."""
        self.fired.add((layer, place))
        if self._where is False:
            return r
        directions = self.of_layer(layer)
        assert directions is not None
        edited = ablate(r, directions, self.alpha)
        if place == "block_input" and (shift := self.of_layer(layer, "shifts")) is not None:
            edited = edited + (shift.unsqueeze(1) if shift.ndim == 2 else shift)
        if self.keep_norm:
            edited = with_norm_of(edited, r)
        if isinstance(self._where, Tensor):
            return torch.where(self._where, edited, r)
        return edited


def _parts(residual: ResidualEdit) -> dict[str, Tensor]:
    shifts = residual.shifts
    return {"directions": residual.sets} | ({} if shifts is None else {"shifts": shifts})


class _Hook:
    """One hook: edits what passes its point."""

    def __init__(self, point: ResidualPoint, directions: Directions) -> None:
        self.point = point
        self.directions = directions
        self.where = (point.layer, point.place)

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
        return self.directions.apply(r, self.point.layer, self.point.place)


def kinds_of(ids: Tensor, image_token_id: int, prompt_length: int | None = None) -> Tensor:
    """Indices of SCOPES for tokens; behind prompt_length they are generated. [rows, tokens]."""
    kinds = torch.full_like(ids, SCOPES.index("prompt"))
    kinds[ids == image_token_id] = SCOPES.index("picture")
    if prompt_length is not None:
        kinds[:, prompt_length:] = SCOPES.index("generated")
    return kinds


@contextmanager
def installed(
    lmm: Lmm, edit: Edit, of: Sequence[int] = (), known: Directions | None = None
) -> Iterator[Directions | None]:
    """The model under an edit, for the length of a `with` block; untouched afterwards.

    of: the set of directions of each row of the batch, where there are several. An engine whose
    batch changes calls `choose` on the directions that this yields. known: the edit's directions
    where they are on the device already.

    Raises: LmmsteerError where the model has no residual stream to edit, the directions have
    another width, hooks placed are not the hooks asked for, or an edit is installed already;
    RunFailed at the end of the block if some hook never fired.
    """
    if edit.residual is None:
        yield None
        return
    _check(lmm, edit.residual)
    directions = known or Directions(edit.residual, lmm)
    if of:
        directions.choose(of)
    hooks = [_Hook(p, directions) for p in lmm.residual_points()]
    with ExitStack() as placed:
        for hook in hooks:
            placed.callback(hook.place().remove)
        yield directions
    silent = [f"layer {h.where[0]} {h.where[1]}" for h in hooks if h.where not in directions.fired]
    if silent:
        raise RunFailed(
            f"The edit was not applied at {len(silent)} of {len(hooks)} places "
            f"({', '.join(silent[:3])}): the model never ran those modules.",
            "Its answers must not be used; the family's record in models/families.py may be wrong",
        )


@contextmanager
def projecting(lmm: Lmm, edit: Edit) -> Iterator[None]:
    """The decoder reads edited features, for the length of a `with` block.

    Raises: LmmsteerError for a family without a projector.
    """
    if edit.features is None:
        yield
        return
    with DECODING[lmm.family.name].editing(lmm, edit.features.apply):
        yield


def _check(lmm: Lmm, residual: ResidualEdit) -> None:
    directions = residual.directions
    if not lmm.family.pre_norm_residual:
        raise LmmsteerError(
            f"The decoder of {lmm.family.name} models has no pre-norm residual stream, so "
            "directions cannot be ablated from it.",
            "Use a method that edits prompts or logits",
        )
    layers = residual.sets.shape[1] if 2 <= directions.ndim <= 4 else 0
    likewise = [x.shape[:2] == residual.sets.shape[:2] for x in _parts(residual).values()]
    if layers not in (1, lmm.n_layers) or residual.d_model != lmm.d_model or not all(likewise):
        raise LmmsteerError(
            f"Directions of shape {list(directions.shape)} do not fit {lmm.name}, whose residual "
            f"stream is {lmm.d_model} wide.",
            "Fit directions on this model: lmmsteer fit",
        )
    halves = residual.scope & {"picture", "prompt"}
    if len(halves) == 1 and not lmm.family.picture_in_residual:
        raise LmmsteerError(
            f"The picture of {lmm.family.name} models has no tokens of its own in the residual "
            "stream, so it cannot be told from the prompt.",
            "Use method.scope=[picture,prompt,generated], or leave both out",
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
        if any(isinstance(getattr(hook, "__self__", None), _Hook) for hook in hooks):
            raise LmmsteerError(
                f"Another edit is still installed in {lmm.name}.", "Leave its `with` block first"
            )
