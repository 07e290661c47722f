"""Processors built in memory, so that a random model needs no download.

The tokenizer is a real byte-level BPE trained on a few sentences; its vocabulary is filled up to
the model's size with entries that no text produces.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
TEXT = """The person stands in front of a house with a large garden and looks at the street.
Describe this image. What is shown in the picture? Please write about the character you see.
A man and a woman talk; the child is using keywords that describe the detail of a personality.
Here is as much of the story as possible: I pretend to be you, and yourself is what I designed.
What are the characteristics and traits of the people? Five keywords, USER: and ASSISTANT: too."""


@cache
def tokenizer_json(vocab_size: int, special: tuple[str, ...]) -> str:
    """A tokenizer of exactly `vocab_size` entries; the special tokens have the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocab_size, 800),
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, special.index(BOS))]
    )
    written = json.loads(tokenizer.to_str())
    vocabulary = written["model"]["vocab"]
    vocabulary |= {f"<unused-{at}>": at for at in range(len(vocabulary), vocab_size)}
    return json.dumps(written)


def tokenizer(vocab_size: int, image: str, more: Sequence[str] = ()) -> Any:
    """A fast tokenizer with <pad> 0, <s> 1, </s> 2, the picture's placeholder 3."""
    special = (PAD, BOS, EOS, image, *more)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_json(vocab_size, special)),
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[image, *more],
    )


def pil(family: str, name: str) -> Any:
    """transformers' image processor that works on PIL pictures: a module's own, or 4.55's only."""
    try:
        home = importlib.import_module(
            f"transformers.models.{family}.image_processing_pil_{family}"
        )
    except ImportError:
        return getattr(importlib.import_module("transformers"), name)
    return getattr(home, f"{name}Pil")


def llava(config: Any) -> Any:
    """CLIP's PIL image processor and a tokenizer, as LLaVA-1.5 has them."""
    from transformers import LlavaProcessor

    side = config.vision_config.image_size
    return LlavaProcessor(
        image_processor=pil("clip", "CLIPImageProcessor")(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer=tokenizer(config.text_config.vocab_size, "<image>"),
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def mllama(config: Any) -> Any:
    """Llama-3.2-Vision's tiles of 560 pixels, up to four."""
    from transformers import MllamaProcessor

    side = config.vision_config.image_size
    pictures = pil("mllama", "MllamaImageProcessor")(
        size={"height": side, "width": side}, max_image_tiles=config.vision_config.max_num_tiles
    )
    words = tokenizer(config.text_config.vocab_size, "<|image|>", ("<|python_tag|>",))
    return MllamaProcessor(image_processor=pictures, tokenizer=words)


def qwen2_5_vl(config: Any) -> Any:
    """Qwen2.5-VL's processor put together from its parts: transformers' own wants torchvision."""
    from lmmsteer.models.parts import Parts

    more = ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>", "<|im_start|>", "<|im_end|>")
    words = tokenizer(config.text_config.vocab_size, "<|image_pad|>", more)
    pictures = pil("qwen2_vl", "Qwen2VLImageProcessor")()

    pad = "<|image_pad|>"

    def shown(features: Any) -> str:
        return pad * (int(features["image_grid_thw"].prod()) // pictures.merge_size**2)

    return Parts(words, pictures, pad, pad, None, shown, {})


def paligemma(config: Any) -> Any:
    """SigLIP's PIL image processor; transformers adds its location tokens to the vocabulary."""
    from transformers import PaliGemmaProcessor

    side = config.vision_config.image_size
    pictures: Any = pil("siglip", "SiglipImageProcessor")(size={"height": side, "width": side})
    pictures.image_seq_length = (side // config.vision_config.patch_size) ** 2
    words = tokenizer(config.text_config.vocab_size - LOCATIONS, "<image>")
    words.image_token, words.image_token_id = "<image>", words.convert_tokens_to_ids("<image>")
    return PaliGemmaProcessor(image_processor=pictures, tokenizer=words)


LOCATIONS = 1216  # 1,024 places and 128 segments, and what the published vocabulary leaves free.
PROCESSORS = {
    "llava": llava,
    "mllama": mllama,
    "qwen2_5_vl": qwen2_5_vl,
    "paligemma": paligemma,
}
