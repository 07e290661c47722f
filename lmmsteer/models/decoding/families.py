"""The families whose rows are not cut as LLaVA's are."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.mllama.modeling_mllama import _prepare_cross_attention_mask

from lmmsteer.models.decoding.base import Decoding
from lmmsteer.models.extras import picture_types, read_tiles
from lmmsteer.models.lmm import Lmm, PreparedPicture

TRANSFORMERS_4 = version("transformers").startswith("4.")


class Qwen(Decoding):
    """Pictures of any size, three-axis rotary positions (M-RoPE)."""

    def mask(self, lmm: Lmm, ids: Tensor) -> Tensor:
        """All ones: without any, transformers 4 takes such positions for texts packed in a row."""
        return torch.ones_like(ids)

    def prefix_positions(
        self, lmm: Lmm, ids: Tensor, pictures: Sequence[PreparedPicture]
    ) -> Tensor:
        return self._positions(lmm, ids, pictures).to(ids.device)

    def start(self, lmm: Lmm, ids: Sequence[int], picture: PreparedPicture) -> int:
        return int(self._positions(lmm, torch.tensor([list(ids)]), [picture]).max()) + 1

    def behind(
        self, lmm: Lmm, ids: Tensor, positions: Tensor, blind: Tensor | None = None
    ) -> dict[str, Any]:
        return {"input_ids": ids, "position_ids": positions.expand(3, *positions.shape)}

    def _positions(self, lmm: Lmm, ids: Tensor, pictures: Sequence[PreparedPicture]) -> Tensor:
        """[3, rows, tokens]; the model's own rule."""
        if not (ids == lmm.image_token_id).any():  # A contrast stream.
            return torch.arange(ids.shape[1]).expand(3, *ids.shape)
        rule = lmm.model.model.get_rope_index
        grid = torch.cat([picture.features["image_grid_thw"] for picture in pictures])
        given: dict[str, Any] = {"image_grid_thw": grid.to(ids.device)}
        if "mm_token_type_ids" in inspect.signature(rule).parameters:
            given["mm_token_type_ids"] = picture_types(ids, lmm.image_token_id, {}, 0)
        return rule(ids, **given)[0]


class PaliGemma(Decoding):
    """Picture and prompt attend in both directions, so that only the seeds share; from 1 on."""

    shares_prompts = False
    causal = False

    def prefix_positions(
        self, lmm: Lmm, ids: Tensor, pictures: Sequence[PreparedPicture]
    ) -> Tensor:
        return super().prefix_positions(lmm, ids, pictures) + 1

    def features(self, lmm: Lmm, pictures: Sequence[PreparedPicture]) -> list[Tensor]:
        """The projector's own, which transformers 4 hands out scaled."""
        seen = lmm.model.model.vision_tower(**self.seen(lmm, pictures)).last_hidden_state
        return list(lmm.projector(seen))

    def mask(self, lmm: Lmm, ids: Tensor) -> Tensor:
        return torch.zeros(len(ids), 1, *ids.shape[1:] * 2, dtype=lmm.dtype, device=ids.device)

    def prefix(
        self,
        lmm: Lmm,
        ids: Tensor,
        pictures: Sequence[PreparedPicture],
        features: Sequence[Tensor],
    ) -> dict[str, Any]:
        if TRANSFORMERS_4:  # There the decoder multiplies all embeddings, words' and pictures'.
            features = [found / lmm.d_model**0.5 for found in features]
        return super().prefix(lmm, ids, pictures, features)

    def start(self, lmm: Lmm, ids: Sequence[int], picture: PreparedPicture) -> int:
        return len(ids) + 1

    def logits(self, lmm: Lmm, hidden: Tensor) -> Tensor:
        logits = super().logits(lmm, hidden)
        cap = getattr(lmm.model.config.get_text_config(), "final_logit_softcapping", None)
        if cap is None or TRANSFORMERS_4:  # There nothing caps them.
            return logits
        return torch.tanh(logits / cap) * cap


class Mllama(Decoding):
    """The picture is read by cross-attention layers; its keys do not hang on the text.

    A stream without its picture has none of these layers: it reads no keys there, which leaves the
    attention's output zero, and the row mask leaves their MLPs out.
    """

    def cross_layers(self, lmm: Lmm) -> frozenset[int]:
        return frozenset(lmm.model.config.get_text_config().cross_attention_layers)

    def features(self, lmm: Lmm, pictures: Sequence[PreparedPicture]) -> list[Tensor]:
        """Projected states of all tiles, padding too: [tiles * patches, d_model] for each."""
        seen = lmm.model.model.vision_model(**self.seen(lmm, pictures)).last_hidden_state
        return list(lmm.projector(seen).flatten(1, -2))

    def prefix(
        self,
        lmm: Lmm,
        ids: Tensor,
        pictures: Sequence[PreparedPicture],
        features: Sequence[Tensor],
    ) -> dict[str, Any]:
        if not features:
            positions = self.prefix_positions(lmm, ids, pictures)
            return self.behind(lmm, ids, positions, torch.ones(len(ids), device=ids.device) > 0)
        tiles = {"aspect_ratio_mask": torch.cat([_tiles(picture) for picture in pictures])}
        reads = read_tiles(ids.cpu(), lmm.image_token_id, tiles, 0).to(ids.device)
        mask, row_mask = _prepare_cross_attention_mask(reads, _patches(lmm), lmm.dtype)  # type: ignore[arg-type]
        return {
            "input_ids": ids,
            "position_ids": self.prefix_positions(lmm, ids, pictures),
            "cross_attention_states": torch.stack(list(features)),
            "cross_attention_mask": mask,
            "full_text_row_masked_out_mask": row_mask,
        }

    def behind(
        self, lmm: Lmm, ids: Tensor, positions: Tensor, blind: Tensor | None = None
    ) -> dict[str, Any]:
        seeing = None if blind is None else (~blind)[:, None, None, None].to(lmm.dtype)
        arguments = {
            "input_ids": ids,
            "position_ids": positions,
            "full_text_row_masked_out_mask": seeing,
        }
        if TRANSFORMERS_4:  # Else it asks the device whether a picture stands before, in each step.
            nothing = torch.zeros(1, 1, 1, 1, dtype=lmm.dtype, device=ids.device)
            arguments |= {"cache_position": (1,), "attention_mask": nothing}
        return arguments

    def valid(self, lmm: Lmm, picture: PreparedPicture) -> int:
        """Behind the picture, padding tiles are masked, so their keys need not be kept."""
        return int(_tiles(picture).sum()) * _patches(lmm)


def _tiles(picture: PreparedPicture) -> Tensor:
    return picture.features["aspect_ratio_mask"]


def _patches(lmm: Lmm) -> int:
    return int(lmm.model.model.vision_model.num_patches)


class ClipCap(Decoding):
    """GPT-2 behind a prefix that a mapping network makes of CLIP's embedding, and nothing else."""

    contrasts = False

    def head(self, lmm: Lmm) -> nn.Module:
        return lmm.model.gpt.lm_head

    def embedding(self, lmm: Lmm) -> nn.Module:
        return lmm.model.gpt.get_input_embeddings()

    def features(self, lmm: Lmm, pictures: Sequence[PreparedPicture]) -> list[Tensor]:
        seen = lmm.model.clip(**self.seen(lmm, pictures))
        return list(lmm.projector(seen.image_embeds))
