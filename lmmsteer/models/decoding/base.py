"""How rows become the decoder's input, cut where they stop being alike: a strategy for a family.

The prefix is what rows share: the text before the picture and the picture; a suffix is the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from lmmsteer.models.lmm import Lmm, PreparedPicture, joined

FeatureChange = Callable[[Tensor], Tensor]


class Decoding:
    """A causal decoder with the picture in its residual stream, as LLaVA's.

    shares_prompts: a prefix serves all prompts of a picture; else the prefix is the whole prompt
    and serves the seeds alone. causal: a prefix's token sees only what stands before it. contrasts:
    a prefix without its picture is one that the decoder can take.
    """

    shares_prompts = True
    causal = True
    contrasts = True

    def run(self, lmm: Lmm, arguments: dict[str, Any], cache: Cache) -> Tensor:
        """The last hidden states, [rows, tokens, d_model]. cache: as the decoder wants one."""
        return self.decoder(lmm)(**arguments, past_key_values=cache, use_cache=True)[0]

    def decoder(self, lmm: Lmm) -> Any:
        """The module that turns embeddings into the last hidden states."""
        return lmm.decoder

    def head(self, lmm: Lmm) -> nn.Module:
        """From last hidden states to logits."""
        return lmm.model.get_output_embeddings()

    def embedding(self, lmm: Lmm) -> nn.Module:
        """From token ids to the decoder's input embeddings."""
        return lmm.model.get_input_embeddings()

    def redirected(self, lmm: Lmm, name: str) -> AbstractContextManager[None]:
        """The decoder calls the attention function registered under a name, in a `with` block."""
        return named_attention(self.decoder(lmm).config, name)

    def cross_layers(self, lmm: Lmm) -> frozenset[int]:
        """Layers whose keys are the picture's own, not the text's."""
        return frozenset()

    def features(self, lmm: Lmm, pictures: Sequence[PreparedPicture]) -> list[Tensor]:
        """The picture as the decoder takes it, [tokens, d_model] for each; one call for all."""
        found = lmm.model.model.get_image_features(**self.seen(lmm, pictures))
        found = getattr(found, "pooler_output", found)  # transformers 4 hands back the features
        return [features.to(lmm.dtype) for features in found]

    def seen(self, lmm: Lmm, pictures: Sequence[PreparedPicture]) -> dict[str, Tensor]:
        """Pictures as the vision tower takes them, on the device, pixels in the model's dtype."""
        device = lmm.device.torch_device()
        given = {name: tensor.to(device) for name, tensor in joined(pictures).items()}
        return {**given, "pixel_values": given["pixel_values"].to(lmm.dtype)}

    @contextmanager
    def editing(self, lmm: Lmm, edit: FeatureChange) -> Iterator[None]:
        """The model itself reads edited features, for the length of a `with` block.

        Raises: LmmsteerError for a family without a projector.
        """

        def after(_: Any, __: tuple[Any, ...], output: Tensor) -> Tensor:
            return edit(output)

        handle = lmm.projector.register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()

    def split(self, lmm: Lmm, ids: Sequence[int]) -> int:
        """How many of a row's tokens are its prefix: all up to the last of the picture's."""
        if not self.shares_prompts:
            return len(ids)
        return len(ids) - list(reversed(ids)).index(lmm.image_token_id)

    def prefix(
        self,
        lmm: Lmm,
        ids: Tensor,
        pictures: Sequence[PreparedPicture],
        features: Sequence[Tensor],
    ) -> dict[str, Any]:
        """The decoder's arguments for prefixes of one length. ids: [prefixes, tokens]."""
        where = ids == lmm.image_token_id
        # The placeholder's own embedding is never read, and some vocabularies have none.
        embeds = self.embedding(lmm)(ids.masked_fill(where, 0))
        if features:
            seen = torch.cat(list(features)).to(embeds.dtype)
            embeds = embeds.masked_scatter(where.unsqueeze(-1), seen)
        return {"inputs_embeds": embeds, "position_ids": self.prefix_positions(lmm, ids, pictures)}

    def prefix_positions(
        self, lmm: Lmm, ids: Tensor, pictures: Sequence[PreparedPicture]
    ) -> Tensor:
        return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)

    def sees(self, lmm: Lmm, ids: Tensor) -> Tensor | None:
        """Which token of a prefix sees which, where `causal` does not say it all; else None.

        ids: [prefixes, tokens] -> [prefixes, 1, tokens, tokens], True where it sees.
        """
        return None

    def mask(self, lmm: Lmm, ids: Tensor) -> Any:
        """The same for the decoder's own attention; None where that is its own affair."""
        return None

    def valid(self, lmm: Lmm, picture: PreparedPicture) -> int:
        """Keys of the cross-attention layers that tokens behind the picture may see."""
        return 0

    def start(self, lmm: Lmm, ids: Sequence[int], picture: PreparedPicture) -> int:
        """The position of the first token behind a prefix. ids: the prefix's."""
        return len(ids)

    def behind(
        self, lmm: Lmm, ids: Tensor, positions: Tensor, blind: Tensor | None = None
    ) -> dict[str, Any]:
        """The decoder's arguments for tokens behind a prefix. ids, positions: [rows, tokens].

        blind: [rows], True for a contrast stream whose prefix is without its picture.
        """
        return {"input_ids": ids, "position_ids": positions}

    def logits(self, lmm: Lmm, hidden: Tensor) -> Tensor:
        """hidden: [rows, d_model] -> [rows, vocab]."""
        return self.head(lmm)(hidden)


@contextmanager
def named_attention(config: Any, name: str) -> Iterator[None]:
    """A decoder's config names an attention function, for the length of a `with` block."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
