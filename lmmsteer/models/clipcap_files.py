"""The folder of a ClipCap checkpoint: its published weights beside a CLIP and a GPT-2.

    config.json                     {"model_type": "clipcap"}
    model.safetensors               the tensors of the published state dict (coco_weights.pt)
    clip/                           CLIP as save_pretrained writes it, with its image processor
    gpt2/                           GPT-2's config.json and tokenizer, without its weights

Reads names only; neither torch nor transformers is imported here.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from lmmsteer.errors import LmmsteerError

NEEDS = (
    (("config.json",), "config.json", """echo '{"model_type": "clipcap"}' > config.json"""),
    (
        ("clip/config.json",),
        "clip/config.json",
        'CLIPModel.from_pretrained("openai/clip-vit-base-patch32").save_pretrained("clip")',
    ),
    (
        ("clip/model.safetensors",),
        "clip/model.safetensors",
        'CLIPModel.from_pretrained("openai/clip-vit-base-patch32").save_pretrained("clip")',
    ),
    (
        ("clip/preprocessor_config.json", "clip/processor_config.json"),
        "clip/preprocessor_config.json",
        'CLIPProcessor.from_pretrained("openai/clip-vit-base-patch32").save_pretrained("clip")',
    ),
    (
        ("gpt2/config.json",),
        "gpt2/config.json",
        'GPT2Config.from_pretrained("gpt2").save_pretrained("gpt2")',
    ),
    (
        ("gpt2/tokenizer.json", "gpt2/vocab.json"),
        "gpt2/tokenizer.json",
        'AutoTokenizer.from_pretrained("gpt2").save_pretrained("gpt2")',
    ),
)


# As published the weights are a pickle, which may run code: this reads nothing but tensors.
CONVERT = (
    "python -c 'import sys, torch; from safetensors.torch import save_file; "
    "w = torch.load(sys.argv[1], weights_only=True); "
    "save_file({k: v.clone().contiguous() for k, v in w.items()}, sys.argv[2])'"
)


def weights(folder: Path) -> Path:
    """The file of the mapping network's and GPT-2's weights."""
    return folder / "model.safetensors"


def is_clipcap(folder: Path, model_type: str | None) -> bool:
    """Whether a folder holds a ClipCap, complete or not; model_type: None without a config.json."""
    if model_type is not None:
        return model_type == "clipcap"
    others = ("model.safetensors", "pytorch_model.bin")
    published = any(folder.glob("*.pt"))
    return published and not any((folder / name).exists() for name in others)


def check(folder: Path) -> None:
    """Refuse a folder that lacks a part.

    Raises: LmmsteerError naming all that is missing, and how to make it.
    """
    lacks = [
        (name, make)
        for names, name, make in NEEDS
        if not any((folder / option).exists() for option in names)
    ]
    published = sorted(folder.glob("*.pt"))
    pickled = not weights(folder).exists()
    if pickled and not published:
        lacks.append(("model.safetensors", "copy the published .pt there"))
    if pickled and len(published) > 1:
        raise LmmsteerError(
            f"model.path={folder} holds several .pt files, and a ClipCap folder one.",
            "Leave the one to be used",
        )
    if lacks:
        names = ", ".join(name for name, _ in lacks)
        raise LmmsteerError(
            f"model.path={folder} is a ClipCap folder without {names}.",
            "Make them there, with transformers: "
            + "; ".join(dict.fromkeys(make for _, make in lacks)),
        )
    if pickled:
        paths = [shlex.quote(str(path)) for path in (published[0], weights(folder))]
        raise LmmsteerError(
            f"model.path={folder} holds its weights as a pickle ({published[0].name}), which may"
            " run code and is not read.",
            "Make safetensors of it, by a loader that takes nothing but tensors: "
            + " ".join([CONVERT, *paths]),
        )


def files(folder: Path) -> list[Path]:
    """Everything that defines answers, for the digest."""
    inner = [
        file
        for part in ("clip", "gpt2")
        for file in sorted((folder / part).iterdir())
        if file.is_file() and not (part == "gpt2" and file.suffix in (".safetensors", ".bin"))
    ]
    return [folder / "config.json", weights(folder), *inner]
