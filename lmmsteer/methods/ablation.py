"""Directions that were found elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from lmmsteer.engine.edit import Edit
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.applying import Applying, check_known, vectors
from lmmsteer.methods.artifact import ORTHONORMAL, Artifact, check
from lmmsteer.methods.base import Context
from lmmsteer.methods.compose import orthonormal_rows
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request

CONFLICTS = ("span", "error")
ORIGIN = ("model_digest", "d_model", "n_layers")  # What a file may say of the model it is from.


@dataclass(frozen=True)
class Ablation(Applying):
    """Removes the directions of an artifact from every residual.

    r' = r - alpha A^T (A r), or what `mode` says. artifact: a safetensors file with the tensor
    `directions` [k, d_model], orthonormal rows; or a list of such files. conflict: what becomes of
    directions of several files that are not orthogonal: their whole span is removed, which no order
    changes, or they are refused.
    Source: Ratzlaff et al. 2024 (arXiv 2411.12590), section 3.1.
    """

    name: str = "ablation"
    artifact: Any = "???"
    conflict: str = "span"

    needs_artifact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known(conflict=(self.conflict, CONFLICTS))
        files = [self.artifact] if isinstance(self.artifact, str) else self.artifact
        listed = isinstance(files, (list, tuple)) and all(isinstance(f, str) for f in files)
        if not listed or not files:
            raise LmmsteerError(
                f"method.artifact={self.artifact} names no file.",
                "Name a safetensors file, or a list of them: method.artifact=FILE",
            )

    def edit(self, lmm: Lmm, requests: Sequence[Request], context: Context) -> Edit:
        return Edit(residual=self.residual(lmm, context.artifact, requests, context))

    def join(self, artifacts: Sequence[Artifact]) -> Artifact:
        """Directions of several files as one artifact (see `joined`).

        Raises: LmmsteerError for files of different models, and for directions that are not
        orthogonal where conflict=error.
        """
        if len(artifacts) == 1:
            return artifacts[0]
        first = artifacts[0].tensors.get("directions")
        width = first.shape[-1] if first is not None and first.ndim else 0
        for at, artifact in enumerate(artifacts, 1):
            check(artifact, width, name="the first", where=f"File {at} of method.artifact")
        for key in ORIGIN:
            if len({a.metadata[key] for a in artifacts if key in a.metadata}) > 1:
                raise LmmsteerError(
                    f"The files of method.artifact are from different models ({key} differs).",
                    "Name files of the model that is to be steered",
                )
        if self.conflict == "error":
            refuse_overlap(artifacts)
        return joined(artifacts)


def joined(artifacts: Sequence[Artifact]) -> Artifact:
    """One artifact that does what several do together; metadata in which they differ is left out.

    directions: an orthonormal basis of their span; the projection does not depend on their order.
    mean [n_layers, d_model], where all have one: x_l in the span with a . x_l = a . m_l for every
    direction a and its own file's m_l, so that affine gives each its component. vectors [files,
    d_model] and `layers`: what add adds of each file, and where. Other tensors: the first's.
    """
    rows = [artifact.tensors["directions"].double() for artifact in artifacts]
    basis = orthonormal_rows(torch.cat(rows))
    found = [vectors(artifact) for artifact in artifacts]
    tensors = {
        **{name: x for name, x in artifacts[0].tensors.items() if name != "mean"},
        "directions": basis[basis.any(1)],
        "vectors": torch.cat([vector for vector, _ in found]).float(),
    }
    means = [a.tensors["mean"] for a in artifacts if "mean" in a.tensors]
    if len(means) == len(artifacts) and len({mean.shape for mean in means}) == 1:
        # [n_layers, directions of all files]
        coordinates = torch.cat([m.double() @ a.T for m, a in zip(means, rows, strict=True)], 1)
        tensors["mean"] = (coordinates @ torch.linalg.pinv(torch.cat(rows)).T).float()
    about = [artifact.metadata for artifact in artifacts]
    origin = {k: v for m in about for k, v in m.items() if k in ORIGIN}
    agreed = {k: v for k, v in about[0].items() if all(k in m and m[k] == v for m in about)}
    layers = [layer for _, known in found for layer in known]
    return Artifact(tensors, {**origin, **agreed, "layers": layers})


def refuse_overlap(artifacts: Sequence[Artifact]) -> None:
    """Raises: LmmsteerError where directions of two artifacts are not orthogonal."""
    for at, second in enumerate(artifacts):
        for before, first in enumerate(artifacts[:at]):
            a, b = (each.tensors["directions"].double() for each in (first, second))
            overlap = (a @ b.T).abs().max().item()
            if overlap > ORTHONORMAL:
                raise LmmsteerError(
                    f"Directions {before + 1} and {at + 1} of method.artifact are not orthogonal "
                    f"(|cos| {overlap:.3g}), and method.conflict=error.",
                    "Use method.conflict=span to remove what they span together",
                )
