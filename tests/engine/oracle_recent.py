"""The families of 2025 as users of plain transformers open them, with its own processors.

Those want torchvision for videos, which pictures do not need: that part is left empty.
"""

from __future__ import annotations

import warnings
from typing import ClassVar

import transformers
from transformers import AutoTokenizer

from tests.tiny import image_processor_class
from tests.tiny_recent import TEMPLATES


class Recent:
    """A model opened by hand. blocks: each with what it writes to the residual stream."""

    name: str
    model_class: str
    processor_class: str
    pictures: tuple[str, str]
    settings: ClassVar[dict] = {}

    def __init__(self, folder):
        self.model = getattr(transformers, self.model_class).from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor = self.unchecked()(
            image_processor=image_processor_class(*self.pictures).from_pretrained(folder),
            tokenizer=self.tokenizer,
            chat_template=TEMPLATES[self.name],
            **self.settings,
        )

    def unchecked(self):
        known = getattr(transformers, self.processor_class)
        return type(known.__name__, (known,), {"check_argument_for_proper_class": lambda *_: None})

    def inputs(self, prompt, picture):
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
        text = self.tokenizer.apply_chat_template(
            [turn],
            chat_template=TEMPLATES[self.name],
            tokenize=False,
            add_generation_prompt=True,
        )
        how = {"return_tensors": "pt", "add_special_tokens": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # transformers' own, of numpy 2.
            made = self.processor(text=[text], images=[picture], **how)
        return {key: made[key] for key in made if key not in ("num_crops", "rows", "cols")}

    def greedy(self, prompt, picture, new):
        """The new tokens of one row, the final end-of-sequence id left out."""
        batch = self.inputs(prompt, picture)
        out = self.model.generate(**batch, do_sample=False, max_new_tokens=new)
        tokens = out[0, batch["input_ids"].shape[1] :].tolist()
        return tokens[:-1] if tokens[-1] == self.model.generation_config.eos_token_id else tokens

    def blocks(self):
        return [(b, b.self_attn, b.mlp) for b in self.model.model.language_model.layers]

    def edit_features(self, scale, shift):
        """Hooks that change what the decoder reads of a picture. Handles."""
        projector = self.model.model.multi_modal_projector
        return [projector.register_forward_hook(lambda _, __, f: f * scale + shift)]


class Qwen3VL(Recent):
    name, model_class = "qwen3_vl", "Qwen3VLForConditionalGeneration"
    processor_class, pictures = "Qwen3VLProcessor", ("qwen2_vl", "Qwen2VLImageProcessor")
    settings: ClassVar = {"video_processor": None}

    def edit_features(self, scale, shift):
        tower = self.model.model.visual
        mergers = [tower.merger, *tower.deepstack_merger_list]
        parts = zip(mergers, scale.chunk(3), shift.chunk(3), strict=True)
        return [m.register_forward_hook(lambda _, __, f, a=a, b=b: f * a + b) for m, a, b in parts]


class Gemma3(Recent):
    name, model_class = "gemma3", "Gemma3ForConditionalGeneration"
    processor_class, pictures = "Gemma3Processor", ("gemma3", "Gemma3ImageProcessor")
    settings: ClassVar = {"image_seq_length": 4}

    def blocks(self):
        layers = self.model.model.language_model.layers
        return [(b, b.post_attention_layernorm, b.post_feedforward_layernorm) for b in layers]


class LlavaOnevision(Recent):
    name, model_class = "llava_onevision", "LlavaOnevisionForConditionalGeneration"
    processor_class = "LlavaOnevisionProcessor"
    pictures = ("llava_onevision", "LlavaOnevisionImageProcessor")
    settings: ClassVar = {
        "video_processor": None,
        "num_image_tokens": 16,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_2",
    }

    def edit_features(self, scale, shift):
        """An affine change goes through the scaling of tiles; line ends are changed by hand."""
        handles = super().edit_features(scale, shift)
        inner = self.model.model
        kept = inner.image_newline.data
        inner.image_newline.data = kept * scale + shift
        return [*handles, Restored(inner.image_newline, kept)]


class Restored:
    """A handle that gives a parameter its values back."""

    def __init__(self, parameter, data):
        self.parameter, self.data = parameter, data

    def remove(self):
        self.parameter.data = self.data


class InternVL(Recent):
    name, model_class = "internvl", "InternVLForConditionalGeneration"
    processor_class, pictures = "InternVLProcessor", ("got_ocr2", "GotOcr2ImageProcessor")
    settings: ClassVar = {"video_processor": None, "image_seq_length": 4}


class SmolVLM(Recent):
    name, model_class = "smolvlm", "SmolVLMForConditionalGeneration"
    processor_class, pictures = "SmolVLMProcessor", ("smolvlm", "SmolVLMImageProcessor")
    settings: ClassVar = {"video_processor": None, "image_seq_len": 4}

    def unchecked(self):
        from transformers.models.smolvlm import processing_smolvlm

        processing_smolvlm.num2words = str  # Of use for videos alone.
        return super().unchecked()

    def blocks(self):
        return [(b, b.self_attn, b.mlp) for b in self.model.model.text_model.layers]

    def edit_features(self, scale, shift):
        projector = self.model.model.connector
        return [projector.register_forward_hook(lambda _, __, f: f * scale + shift)]


RECENT_ORACLES = {of.name: of for of in (Qwen3VL, Gemma3, LlavaOnevision, InternVL, SmolVLM)}
