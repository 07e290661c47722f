"""A processor put together from its parts: tokenizer, image processor, chat template.

For families whose own processor needs more than pictures do (Qwen2.5-VL's wants torchvision for
video), or that have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from lmmsteer.models.files import read_json


@dataclass
class Parts:
    """Does with one text and one picture what transformers' processors do.

    place: what the text has where the picture goes; shown: what stands there in the end, from what
    the image processor says. preparing: what that is told.
    """

    tokenizer: Any
    image_processor: Any
    image_token: str
    place: str
    chat_template: str | None
    shown: Callable[[Mapping[str, Tensor]], str]
    preparing: Mapping[str, Any]

    def apply_chat_template(self, turns: list[dict[str, Any]], **kwargs: Any) -> str:
        """The turns as text, the picture's placeholder once."""
        template = {"chat_template": self.chat_template, "tokenize": False}
        return str(self.tokenizer.apply_chat_template(turns, **template, **kwargs))

    def __call__(self, text: str, images: Image.Image, return_tensors: str) -> BatchFeature:
        """One text with the picture's tokens in its place, and the picture's features."""
        how = {"return_tensors": return_tensors, **self.preparing}
        features = self.image_processor(images=images, **how)
        if self.place:
            text = text.replace(self.place, self.shown(features), 1)
        # A text of nothing but a picture of no tokens is none: a tokenizer gives it a float dtype.
        ids = self.tokenizer(text, return_tensors=return_tensors) if text else {}
        return BatchFeature({**ids, **features})


def chat_template(folder: Path, tokenizer: Any) -> str | None:
    """The chat template of a folder, wherever the transformers that saved it put it."""
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if (folder / "chat_template.json").exists():
        return read_json(folder / "chat_template.json").get("chat_template")
    return getattr(tokenizer, "chat_template", None)
