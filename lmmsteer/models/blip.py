"""BLIP's captioner with prompts of different lengths in one batch.

Its own generate ignores padding twice: it overwrites the first column, where a padded row has no
token, and counts positions from there. Knows nothing of steering.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import BlipForConditionalGeneration


class Captioner(BlipForConditionalGeneration):
    """The same weights; input_ids begin with the decoder's own first token and have no [SEP]."""

    def forward(  # type: ignore[override]
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any
    ) -> Any:
        """Logits of the caption so far, [rows, tokens, vocab]."""
        return self.text_decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions(attention_mask),
            encoder_hidden_states=self.vision_model(pixel_values=pixel_values)[0],
            **kwargs,
        )

    def generate(  # type: ignore[override]
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any
    ) -> Any:
        """The ids given and the new ones, like every other model's."""
        seen = self.vision_model(pixel_values=pixel_values)[0]
        # generate counts positions from the mask by itself, and keeps counting.
        decoder: Any = self.text_decoder
        decoder.generation_config = self.generation_config
        return decoder.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
            **kwargs,
        )


def positions(attention_mask: Tensor) -> Tensor:
    """Each token's place in its own row; padding on the left stands at 0. [rows, tokens]"""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)
