"""The untrained demo LMM: tokenizer, processor and model, all of the real LLaVA classes."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from lmmsteer.demo.grammar import TARGET_WORDS, answer, sample_prompt
from lmmsteer.demo.people import counterfactual_sets

IMAGE_SIZE = 60
PATCH_SIZE = 10
PICTURE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT:' }}"
    "{% if message['content'] is string %}"
    "{{ ('' if message['role'] == 'user' else ' ') + message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{{ ('' if message['role'] == 'user' else ' ') + part['text'] }}{% endfor %}"
    "{% endif %}"
    "{{ ' ' if message['role'] == 'user' else '</s>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def _corpus(texts: int) -> Iterator[str]:
    rng = random.Random(0)
    people = list(counterfactual_sets(2400, seed=0, split="train"))
    for _ in range(texts):
        prompt = sample_prompt(rng)
        yield f"{prompt} ASSISTANT: {answer(rng.choice(people), prompt, rng)}"
    for words in TARGET_WORDS.values():
        for word in words.split():
            yield f" {word} {word.capitalize()}\n{word}\n{word.capitalize()}\n" * 3
    yield "USER: \n" * 10


def build_processor() -> LlavaProcessor:
    """Byte-level BPE trained on the grammar's output, CLIP's image processor (PIL), the template.

    The tokenizer puts the one beginning-of-sequence token; the template has none.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        _corpus(12_000),
        trainers.BpeTrainer(
            vocab_size=1500,
            min_frequency=2,
            special_tokens=[PAD, BOS, EOS, IMAGE],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, bpe.token_to_id(BOS))],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=size, crop_size=size),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(
    processor: LlavaProcessor, *, width: int = 160, layers: int = 7
) -> LlavaForConditionalGeneration:
    """A LLaVA of about 2.6 million parameters, freshly initialised; seed torch first."""
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=96,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 12 // 5,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=PICTURE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """save_pretrained, in the spelling that transformers 4.55 opens as well as 5.x."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "extra_special_tokens": {"image_token": IMAGE},
        "model_input_names": ["input_ids", "attention_mask"],
    }
    _rewrite(folder / "tokenizer_config.json", tokenizer)
    _rewrite(folder / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"})
    _rewrite(folder / "processor_config.json", {}, drop="image_processor")
    weights = folder / "model.safetensors"
    tensors = {_older_name(name): tensor for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)


def _older_name(name: str) -> str:
    tower, inner = "vision_tower.", "vision_tower.vision_model."
    return name if inner in name else name.replace(tower, inner)


def _rewrite(path: Path, keys: dict[str, object], drop: str = "") -> None:
    read = {**json.loads(path.read_text()), **keys}
    kept = {key: value for key, value in read.items() if key != drop}
    path.write_text(json.dumps(kept, indent=2) + "\n")
