"""People made by a diffusion checkpoint of yours, in sets that are alike but for their labels.

Address: any text-to-image checkpoint that diffusers opens, for example
https://huggingface.co/black-forest-labs/FLUX.1-dev (its licence forbids commercial use) or Stable
Diffusion; Ratzlaff et al. 2024 (arXiv 2411.12590) used the former. Licence: the checkpoint's.
Example row: image_id=nurse-0000-woman, group_id=nurse-0000, gender=woman, occupation=nurse,
prompt="A photo of a woman who works as a nurse"
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from threading import Lock
from typing import Any

from lmmsteer.datasets.base import Picture, Sample, picture_of_bytes
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import LABELS

OCCUPATIONS = ("doctor", "nurse", "teacher", "chef", "mechanic", "pilot", "farmer", "painter")
TEMPLATE = "A photo of a {gender} who works as a {occupation}"
INSTALL = "Install it: pip install 'lmmsteer[synthetic]'"


@dataclass(frozen=True)
class Synthetic:
    """`sets` counterfactual sets of each occupation, a picture for each combination of labels.

    checkpoint: a folder saved by diffusers' save_pretrained (safetensors), or a hub id. attributes:
    labels with their values, each named in `template`. All pictures of a set begin from the same
    noise, so that they differ by the words alone as far as the checkpoint allows. They are made one
    at a time, when they are asked for: a picture hangs on its words and its seed, not on its
    neighbours; on another kind of device its bytes differ. size: pixels a side. steps, guidance:
    the checkpoint's own defaults where null.
    """

    name: str
    checkpoint: str
    attributes: dict[str, list[str]] = field(default_factory=dict)
    occupations: list[str] = field(default_factory=lambda: list(OCCUPATIONS))
    template: str = TEMPLATE
    sets: int = 1
    seed: int = 0
    size: int = 512
    steps: int | None = None
    guidance: float | None = None

    @property
    def picture_bytes(self) -> int:
        """About what a picture takes as PNG: a plan makes none to find out."""
        return 3 * self.size * self.size // 2

    def samples(self) -> Iterator[Sample]:
        self._check()
        for at, occupation in enumerate(self.occupations):
            for number in range(self.sets):
                group = f"{_plain(occupation)}-{number:04d}"
                seed = (self.seed * len(self.occupations) + at) * 1_000_003 + number
                for values in product(*self.attributes.values()):
                    labels = dict(zip(self.attributes, values, strict=True))
                    yield self._sample(group, seed, {**labels, "occupation": occupation})

    def _sample(self, group: str, seed: int, labels: Mapping[str, str]) -> Sample:
        prompt = self.template
        for name, value in labels.items():
            prompt = prompt.replace(f"{{{name}}}", value)
        values = (_plain(value) for name, value in labels.items() if name != "occupation")
        image_id = "-".join((group, *values))
        return Sample(
            image_id=image_id,
            read=partial(self._painter.paint, image_id, prompt, seed),
            group_id=group,
            labels={key: value for key, value in labels.items() if key in LABELS},
            extra={"prompt": prompt, **{k: v for k, v in labels.items() if k not in LABELS}},
        )

    @cached_property
    def _painter(self) -> _Painter:
        return _Painter(self.checkpoint, self.size, self.steps, self.guidance)

    def _check(self) -> None:
        """Raises: LmmsteerError for what can make no picture, before anything is loaded."""
        named = set(re.findall(r"\{(\w+)\}", self.template))
        wanted = {*self.attributes, "occupation"}
        if named != wanted:
            odd = ", ".join(sorted(named ^ wanted))
            raise LmmsteerError(
                f"dataset.template and dataset.attributes do not name the same labels: {odd}.",
                "Name each in braces: 'dataset.template=\"A photo of a {gender} {occupation}\"'",
            )
        positive = {"sets": self.sets, "size": self.size, "steps": self.steps or 1}
        for key, value in positive.items():
            if value < 1:
                raise LmmsteerError(
                    f"dataset.{key}={value} is not a positive number.", f"Give dataset.{key}=1"
                )
        if self.size % 8:
            raise LmmsteerError(
                f"dataset.size={self.size} is no multiple of 8.", "Give dataset.size=512"
            )
        if importlib.util.find_spec("diffusers") is None:
            raise LmmsteerError(
                "dataset=synthetic needs diffusers, which is not installed.", INSTALL
            )


class _Painter:
    """The checkpoint, loaded with the first picture; one picture at a time, whoever asks."""

    def __init__(
        self, checkpoint: str, size: int, steps: int | None, guidance: float | None
    ) -> None:
        self.checkpoint = checkpoint
        given = {"num_inference_steps": steps, "guidance_scale": guidance}
        self.keys = {key: value for key, value in given.items() if value is not None}
        self.keys |= {"height": size, "width": size}
        self._lock = Lock()
        self._pipeline: Any = None

    def paint(self, image_id: str, prompt: str, seed: int) -> Picture:
        """The picture as PNG; `picture_withheld` where the checkpoint's own filter withholds it."""
        import torch

        with self._lock, torch.inference_mode():
            if self._pipeline is None:
                self._pipeline = self._opened()
            noise = torch.Generator("cpu").manual_seed(seed)
            made = self._pipeline(prompt=prompt, generator=noise, **self.keys)
        if any(getattr(made, "nsfw_content_detected", None) or ()):
            why = f"{image_id} was withheld by the checkpoint's safety checker"
            return Picture(image_id, None, None, "picture_withheld", why)
        buffer = io.BytesIO()
        made.images[0].save(buffer, "PNG")
        return picture_of_bytes(image_id, buffer.getvalue())

    def _opened(self) -> Any:
        import torch

        diffusers: Any = importlib.import_module("diffusers")  # Its types take a checker minutes.
        diffusers.utils.logging.set_verbosity_error()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        try:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                self.checkpoint, dtype=dtype, use_safetensors=True
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = " ".join(str(error).split()).rstrip(".")
            raise LmmsteerError(
                f"dataset.checkpoint={self.checkpoint} cannot be opened: {why}.",
                "Name a folder saved by save_pretrained, with safetensors, or a hub id.",
            ) from error
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")
