"""What a method has learned: tensors and how they came about, in one safetensors file.

Written byte for byte the same from the same content; checked before any weights are loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from lmmsteer.errors import LmmsteerError

ORTHONORMAL = 1e-3
FIT_AGAIN = (
    "Move it aside and fit it anew (lmmsteer fit), or name another file: method.artifact=FILE"
)
# Metadata that stays text, and so is never mistaken for a JSON number.
TEXTS = frozenset(
    {"attribute", "data_digest", "method", "model", "model_digest", "position", "question"}
    | {"revision", "score", "version"}
)


@dataclass(frozen=True, eq=False)
class Artifact:
    """Tensors by name, and metadata: texts, numbers and lists that JSON can hold."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """A safetensors file. Keys are sorted; metadata values are texts or JSON in texts."""
        header: dict[str, Any] = {"__metadata__": dict(sorted(_texts(self.metadata)))}
        blocks, end = [], 0
        for name, tensor in sorted(self.tensors.items()):
            blocks.append(tensor.detach().cpu().to(torch.float32).contiguous().numpy().tobytes())
            start, end = end, end + len(blocks[-1])
            header[name] = {
                "dtype": "F32",
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return b"".join([len(text).to_bytes(8, "little"), text, *blocks])

    def save(self, path: Path) -> None:
        path.write_bytes(self.to_bytes())

    @classmethod
    def from_bytes(
        cls, data: bytes, where: str = "the artifact", mend: str = FIT_AGAIN
    ) -> Artifact:
        """Read a safetensors file, made by lmmsteer or elsewhere.

        Raises: LmmsteerError where the bytes are no safetensors file, with what mends it.
        """
        try:
            tensors = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        except (SafetensorError, ValueError, KeyError) as error:
            raise LmmsteerError(f"{where} is not a safetensors file: {error}.", mend) from error
        metadata = header.get("__metadata__") or {}
        return cls(tensors, {key: _value(key, text) for key, text in metadata.items()})


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model before its weights are loaded.

    tokenizer: digest of its files. feature_levels: layers of the vision tower that the decoder
    reads, side by side in a picture's features.
    """

    name: str
    digest: str
    d_model: int
    n_layers: int | None
    vocab_size: int | None
    tokenizer: str
    feature_levels: int = 1

    @property
    def feature_width(self) -> int:
        """Width of a picture's features, [tokens, feature_width]."""
        return self.feature_levels * self.d_model


def _texts(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (key, value if key in TEXTS else json.dumps(value, sort_keys=True))
        for key, value in metadata.items()
        if value is not None
    ]


def _value(key: str, text: str) -> Any:
    if key in TEXTS:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text  # A file made elsewhere may say what it likes.


def check(
    artifact: Artifact,
    d_model: int,
    n_layers: int | None = None,
    digest: str | None = None,
    name: str = "the model",
    where: str = "The artifact",
) -> None:
    """Refuse directions that cannot be ablated from this model's residual stream.

    Needs the numbers of the model's config alone, so that it can be asked before weights are
    loaded. A file that does not say which model it is from is judged by its shape.

    Raises: LmmsteerError for a missing tensor `directions`, another model, another width, values
    that are not finite, a zero direction, rows that are not orthonormal.
    """
    mend = "Fit directions on this model (lmmsteer fit) or name another file: method.artifact=FILE"
    if problem := _problem(artifact, d_model, n_layers, digest, name):
        raise LmmsteerError(f"{where} {problem}.", mend)


def _problem(
    artifact: Artifact, d_model: int, n_layers: int | None, digest: str | None, name: str
) -> str | None:
    directions = artifact.tensors.get("directions")
    if directions is None:
        return "has no tensor `directions`"
    made_for = artifact.metadata.get("model_digest")
    if made_for and digest and made_for != digest:
        theirs = artifact.metadata.get("model", "?")
        return f"was fitted on another model ({theirs}, weights {made_for[:12]}), not on {name}"
    if directions.ndim != 2 or directions.shape[0] == 0 or directions.shape[1] != d_model:
        return (
            f"holds directions of shape {list(directions.shape)}, and {name} needs [k, {d_model}]"
        )
    layers = artifact.metadata.get("n_layers")
    if isinstance(layers, int) and n_layers is not None and layers != n_layers:
        return f"was fitted on a model of {layers} layers, and {name} has {n_layers}"
    rows = directions.double()
    if not torch.isfinite(rows).all():
        return "holds directions that are not finite"
    if (rows.norm(dim=1) < ORTHONORMAL).any():
        return "holds a direction that is zero"
    gap = (rows @ rows.T - torch.eye(len(rows), dtype=torch.float64)).abs().max().item()
    if gap > ORTHONORMAL:
        return f"holds directions that are not orthonormal (A A^T is off by {gap:.3g})"
    return None
