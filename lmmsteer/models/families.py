"""What differs between families of models, as data: a frozen record for each.

A new family is a new record; module names are looked up in the loaded model, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmmsteer.errors import LmmsteerError


@dataclass(frozen=True)
class Family:
    """Where one family of models keeps what steering touches, and what its input is made of.

    layers: paths to the list of decoder blocks, the first that exists is taken (they moved between
    transformers 4 and 5). writes: (attention, mlp), names of the two modules inside a block whose
    outputs are added to the residual stream; the first pair of which both exist is taken.
    projector: paths to the module that turns vision features into what the decoder reads.
    image_token: the picture's placeholder, empty where no place in the prompt is the picture's.
    place: what a template writes where the picture goes, if not the placeholder; around: what
    stands before and behind the placeholders there.
    template: what a checkpoint without a chat template is shown; {bos} is the tokenizer's own.
    features: what a prepared picture consists of. preparing: what the image processor is told,
    as transformers' own processor of the family does. extras: inputs beside ids, mask and features,
    each with its function in lmmsteer/models/extras.py; those this transformers does not take are
    left out. first_id, last_id: names in the text config of the token that begins every input (in
    the place of the tokenizer's own) and of the one that ends an answer, where the family has such.
    from_parts: the processor is put together from tokenizer and image processor.
    pre_norm_residual: blocks add to a residual stream that can be ablated. picture_in_residual:
    the picture's tokens are rows of it, in the placeholders' places.
    """

    name: str
    model_types: tuple[str, ...]
    layers: tuple[str, ...]
    writes: tuple[tuple[str, str], ...]
    projector: tuple[str, ...]
    image_token: str
    template: str
    place: str = ""
    around: tuple[str, str] = ("", "")
    features: tuple[str, ...] = ("pixel_values",)
    preparing: tuple[tuple[str, Any], ...] = ()
    extras: tuple[tuple[str, str], ...] = ()
    first_id: str = ""
    last_id: str = ""
    from_parts: bool = False
    pre_norm_residual: bool = True
    picture_in_residual: bool = True


LLAVA = Family(
    name="llava",
    model_types=("llava",),
    layers=(
        "model.language_model.layers",
        "model.language_model.model.layers",
        "language_model.model.layers",
    ),
    writes=(("self_attn", "mlp"),),
    projector=("model.multi_modal_projector", "multi_modal_projector"),
    image_token="<image>",
    template="USER: <image>\n{prompt} ASSISTANT:",
)

# The picture is not in the residual stream: gated cross-attention blocks read the projector.
MLLAMA = Family(
    name="mllama",
    model_types=("mllama",),
    layers=("model.language_model.layers", "language_model.model.layers"),
    writes=(("self_attn", "mlp"), ("cross_attn", "mlp")),
    projector=("model.multi_modal_projector", "multi_modal_projector"),
    image_token="<|image|>",
    template="<|image|>{bos}{prompt}",
    features=("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"),
    extras=(("cross_attention_mask", "read_tiles"),),
    picture_in_residual=False,
)

QWEN2_5_VL = Family(
    name="qwen2_5_vl",
    model_types=("qwen2_5_vl",),
    layers=("model.language_model.layers", "model.layers"),
    writes=(("self_attn", "mlp"),),
    projector=("model.visual.merger", "visual.merger"),
    image_token="<|image_pad|>",
    template=(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"
    ),
    features=("pixel_values", "image_grid_thw"),
    extras=(("mm_token_type_ids", "picture_types"),),
    from_parts=True,
)

# Gemma 2 normalises what attention and MLP give before adding it; in Gemma 1 the norm of the
# same name stands before the MLP, and the pair is not whole.
PALIGEMMA = Family(
    name="paligemma",
    model_types=("paligemma",),
    layers=("model.language_model.layers", "language_model.model.layers"),
    writes=(
        ("post_attention_layernorm", "post_feedforward_layernorm"),
        ("self_attn", "mlp"),
    ),
    projector=("model.multi_modal_projector", "multi_modal_projector"),
    image_token="<image>",
    template="<image>{bos}{prompt}\n",
    extras=(("token_type_ids", "said_types"),),
    from_parts=True,
)

BLIP = Family(
    name="blip",
    model_types=("blip",),
    layers=("text_decoder.bert.encoder.layer",),
    writes=(("crossattention", "output"),),
    projector=(),
    image_token="",
    template="{prompt}",
    first_id="bos_token_id",
    last_id="sep_token_id",
    from_parts=True,
    pre_norm_residual=False,
    picture_in_residual=False,
)

CLIPCAP = Family(
    name="clipcap",
    model_types=("clipcap",),
    layers=("gpt.transformer.h",),
    writes=(("attn", "mlp"),),
    projector=("clip_project",),
    image_token="<|endoftext|>",
    template="<|endoftext|>{prompt}",
    from_parts=True,
)

# Features of early layers of the vision tower are added behind the decoder's first blocks.
QWEN3_VL = Family(
    name="qwen3_vl",
    model_types=("qwen3_vl",),
    layers=("model.language_model.layers",),
    writes=(("self_attn", "mlp"),),
    projector=("model.visual.merger",),
    image_token="<|image_pad|>",
    template=(
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{prompt}<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    features=("pixel_values", "image_grid_thw"),
    extras=(("mm_token_type_ids", "picture_types"),),
    from_parts=True,
)

# The picture's tokens see each other in both directions, all others what stands before them.
GEMMA3 = Family(
    name="gemma3",
    model_types=("gemma3",),
    layers=("model.language_model.layers", "language_model.model.layers"),
    writes=(("post_attention_layernorm", "post_feedforward_layernorm"),),
    projector=("model.multi_modal_projector", "multi_modal_projector"),
    image_token="<image_soft_token>",
    place="<start_of_image>",
    around=("\n\n<start_of_image>", "<end_of_image>\n\n"),
    template=(
        "{bos}<start_of_turn>user\n<start_of_image>{prompt}<end_of_turn>\n<start_of_turn>model\n"
    ),
    preparing=(("do_convert_rgb", True), ("do_pan_and_scan", False)),
    extras=(("token_type_ids", "picture_types"),),
    from_parts=True,
)

LLAVA_ONEVISION = Family(
    name="llava_onevision",
    model_types=("llava_onevision",),
    layers=("model.language_model.layers", "language_model.model.layers"),
    writes=(("self_attn", "mlp"),),
    projector=("model.multi_modal_projector", "multi_modal_projector"),
    image_token="<image>",
    template="<|im_start|>user <image>\n{prompt}<|im_end|><|im_start|>assistant\n",
    features=("pixel_values", "image_sizes"),
    from_parts=True,
)

INTERNVL = Family(
    name="internvl",
    model_types=("internvl",),
    layers=("model.language_model.layers", "language_model.model.layers"),
    writes=(("self_attn", "mlp"),),
    projector=("model.multi_modal_projector", "multi_modal_projector"),
    image_token="<IMG_CONTEXT>",
    around=("<img>", "</img>"),
    template=("<|im_start|>user\n<IMG_CONTEXT>\n{prompt}<|im_end|>\n<|im_start|>assistant\n"),
    preparing=(("crop_to_patches", True),),
    from_parts=True,
)

SMOLVLM = Family(
    name="smolvlm",
    model_types=("smolvlm",),
    layers=("model.text_model.layers",),
    writes=(("self_attn", "mlp"),),
    projector=("model.connector",),
    image_token="<image>",
    template="<|im_start|>User:<image>{prompt}<end_of_utterance>\nAssistant:",
    features=("pixel_values", "pixel_attention_mask"),
    preparing=(("return_row_col_info", True),),
    from_parts=True,
)

FAMILIES = {
    family.name: family
    for family in (
        LLAVA,
        MLLAMA,
        QWEN2_5_VL,
        PALIGEMMA,
        BLIP,
        CLIPCAP,
        QWEN3_VL,
        GEMMA3,
        LLAVA_ONEVISION,
        INTERNVL,
        SMOLVLM,
    )
}

# Width and depth that a config leaves out where they are its class's own: by the type of the text
# config, or of the whole one where the text config does not tell.
TEXT_DEFAULTS = {
    "llama": (4096, 32),
    "mistral": (4096, 32),
    "qwen2": (4096, 32),
    "llava": (4096, 32),
    "mllama_text_model": (4096, 40),
    "mllama": (4096, 40),
    "qwen2_5_vl_text": (8192, 80),
    "qwen2_5_vl": (8192, 80),
    "gemma": (3072, 28),
    "gemma2": (2304, 26),
    "paligemma": (2048, 18),
    "blip_text_model": (768, 12),
    "blip": (768, 12),
    "gpt2": (768, 12),
    "qwen3_vl_text": (4096, 32),
    "qwen3_vl": (4096, 32),
    "gemma3_text": (2304, 26),
    "gemma3": (2304, 26),
    "qwen3": (4096, 32),
}

# Layers of the vision tower that a decoder reads besides the last, where a config leaves them out.
DEEPSTACK = {"qwen3_vl": 3}


def feature_levels(config: Mapping[str, Any]) -> int:
    """How many features of a picture's token stand side by side, each d_model wide: config.json's.

    One, but for models whose decoder also reads earlier layers of the vision tower (deepstack).
    """
    default = range(DEEPSTACK.get(str(config.get("model_type")), 0))
    vision = config.get("vision_config") or {}
    return 1 + len(vision.get("deepstack_visual_indexes", default))


def family_of(model_type: str, asked: str = "auto") -> Family:
    """The record for a config's `model_type`, or the one asked for by name.

    Raises: LmmsteerError for a model type or a name that no record has.
    """
    if asked != "auto":
        if asked not in FAMILIES:
            raise LmmsteerError(
                f"model.family={asked} is not a family lmmsteer knows.",
                f"Use model.family=auto or one of: {', '.join(FAMILIES)}",
            )
        return FAMILIES[asked]
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    if model_type == "internvl_chat":
        raise LmmsteerError(
            "This InternVL checkpoint brings code of its own, which is not run.",
            "Name the one in transformers' layout: model.path=OpenGVLab/InternVL3-8B-hf",
        )
    raise LmmsteerError(
        f"Models of type {model_type!r} are not supported; families known: {', '.join(FAMILIES)}.",
        "Name a checkpoint of a known family, or set model.family=NAME if it has the same layout",
    )
