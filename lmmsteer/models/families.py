"""What differs between families of models, as data: a frozen record for each.

A new family is a new record; module names are looked up in the loaded model, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmmsteer.errors import LmmsteerError


@dataclass(frozen=True)
class Family:
    """Where one family of models keeps what steering touches.

    layers: paths to the list of decoder blocks, the first that exists is taken (they moved between
    transformers 4 and 5). attention, mlp: names of the modules inside a block that write to the
    residual stream, the first that exists is taken. projector: paths to the module that turns
    vision features into the decoder's embeddings. template: what a checkpoint without a chat
    template is shown. pre_norm_residual: blocks add to a residual stream that can be ablated.
    """

    name: str
    model_types: tuple[str, ...]
    layers: tuple[str, ...]
    attention: tuple[str, ...]
    mlp: tuple[str, ...]
    projector: tuple[str, ...]
    image_token: str
    template: str
    pre_norm_residual: bool = True


LLAVA = Family(
    name="llava",
    model_types=("llava",),
    layers=(
        "model.language_model.layers",
        "model.language_model.model.layers",
        "language_model.model.layers",
    ),
    attention=("self_attn", "cross_attn"),
    mlp=("mlp",),
    projector=("model.multi_modal_projector", "multi_modal_projector"),
    image_token="<image>",
    template="USER: <image>\n{prompt} ASSISTANT:",
)

FAMILIES = {family.name: family for family in (LLAVA,)}

# Width and depth of a text config that leaves them out, as the published LLaVA-1.5 files do.
TEXT_DEFAULTS = {"llama": (4096, 32), "mistral": (4096, 32), "qwen2": (4096, 32)}


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
    raise LmmsteerError(
        f"Models of type {model_type!r} are not supported; families known: {', '.join(FAMILIES)}.",
        "Name a checkpoint of a known family, or set model.family=NAME if it has the same layout",
    )
