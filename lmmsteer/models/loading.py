"""Reads weights and processor from a folder, without a trace of transformers' advice on screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from lmmsteer.errors import LmmsteerError
from lmmsteer.models.blip import Captioner
from lmmsteer.models.clipcap import ClipCap
from lmmsteer.models.families import Family
from lmmsteer.models.files import config
from lmmsteer.models.mllama import keep_intermediate_states
from lmmsteer.models.parts import Parts, chat_template
from lmmsteer.models.qwen import follow_own_rows
from lmmsteer.models.shown import SHOWN

# Nothing is fetched, and no code that lies beside the weights is run.
OWN: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
CLASSES = {"blip": Captioner, "clipcap": ClipCap}


def read_weights(folder: Path, dtype: torch.dtype, family: Family) -> Any:
    """The model of a folder, every weight of it read.

    Raises: LmmsteerError where weights are damaged, the folder leaves some of its config's out, or
    this transformers does not have the model.
    """
    kind = str(config(folder).get("model_type"))
    if family.name not in CLASSES and kind not in CONFIG_MAPPING:
        raise LmmsteerError(
            f"transformers {transformers.__version__} does not have models of type {kind}.",
            "pip install --upgrade transformers",
        )
    # `torch_dtype` is understood by transformers 4 and 5; 5 calls it `dtype`.
    try:
        with quiet():
            loaded: Any = CLASSES.get(family.name, AutoModelForImageTextToText).from_pretrained(
                folder, torch_dtype=dtype, output_loading_info=True, use_safetensors=True, **OWN
            )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise LmmsteerError(
            f"The weights of model.path={folder} cannot be read: {error}.",
            "Fetch or save the model again; the copy may be incomplete",
        ) from error
    model, info = loaded
    absent = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if absent:
        raise LmmsteerError(
            f"model.path={folder} does not hold every weight of its config: "
            f"{', '.join(absent[:3])}{' and others' if len(absent) > 3 else ''}.",
            "Fetch or save the model again; weights and config.json must belong together",
        )
    if family.name == "qwen2_5_vl":
        follow_own_rows(model)
    if family.name == "mllama":
        keep_intermediate_states(model)
    return model


def read_processor(folder: Path, model: Any, family: Family) -> Any:
    """The processor of a folder, with a PIL image processor and what old files leave out."""
    with quiet():
        if family.from_parts:
            processor: Any = _parts(folder, model, family)
        else:
            processor = AutoProcessor.from_pretrained(folder, **OWN)
            processor.image_processor = _image_processor(folder)
    if getattr(processor, "patch_size", 0) is None:
        # Older files leave this to the model's config, as transformers' LLaVA page describes.
        processor.patch_size = model.config.vision_config.patch_size
        processor.vision_feature_select_strategy = model.config.vision_feature_select_strategy
        processor.num_additional_image_tokens = int(_has_class_token(model))
    tokenizer = processor.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return processor


def _parts(folder: Path, model: Any, family: Family) -> Parts:
    inner = ("gpt2", "clip") if family.name == "clipcap" else ("", "")
    tokenizer = AutoTokenizer.from_pretrained(folder / inner[0], **OWN)
    image_processor = _image_processor(folder / inner[1])
    return Parts(
        tokenizer,
        image_processor,
        family.image_token,
        family.place or family.image_token,
        chat_template(folder, tokenizer),
        partial(SHOWN[family.name], model, family),
        dict(family.preparing),
    )


def _has_class_token(model: Any) -> bool:
    names = (name for name, _ in model.named_parameters() if "vision" in name)
    return any(name.endswith(("class_embedding", "cls_token")) for name in names)


def _image_processor(folder: Path) -> Any:
    """The PIL image processor: the same pixels whether torchvision is installed or not."""
    try:
        from transformers.image_processing_backends import PilBackend  # noqa: F401
    except ImportError:
        return AutoImageProcessor.from_pretrained(folder, use_fast=False, **OWN)
    return AutoImageProcessor.from_pretrained(folder, backend="pil", **OWN)


def ending_ids(model: Any, tokenizer: Any, family: Family) -> tuple[int, ...]:
    """Tokens that end an answer: the generation config's, else the decoder's or the tokenizer's."""
    text = model.config.get_text_config()
    if family.last_id:
        return (int(getattr(text, family.last_id)),)
    for found in (model.generation_config.eos_token_id, text.eos_token_id, tokenizer.eos_token_id):
        if found is not None:
            return tuple(found) if isinstance(found, list | tuple) else (int(found),)
    return ()


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice from transformers while files are read."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
