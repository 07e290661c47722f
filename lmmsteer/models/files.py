"""The folder a model is loaded from: found, complete, and known by its digest.

Reads names, JSON and bytes only; neither torch nor transformers is imported here.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any, BinaryIO

from lmmsteer.errors import LmmsteerError
from lmmsteer.models import clipcap_files
from lmmsteer.models.families import TEXT_DEFAULTS

DEMO = Path(__file__).parent.parent / "demo" / "model"
SETTINGS = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
VOCABULARY = ("tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")  # Reading a pickle may run code.


def locate(path: str, revision: str | None = None) -> Path:
    """The local folder of `model.path`: `demo`, a folder, or a hub id (fetched where needed).

    Raises: LmmsteerError for a folder that is not there, an unknown or gated hub id, no network.
    """
    if path == "demo":
        return DEMO
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if path.startswith(("/", ".", "~")) or path.count("/") != 1:
        raise LmmsteerError(
            f"model.path={path} is not a folder.",
            "Name a folder saved by save_pretrained, or a hub id: "
            "model.path=llava-hf/llava-1.5-7b-hf",
        )
    return _fetch(path, revision)


def _fetch(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        patterns = [*SETTINGS, "*.safetensors", *WEIGHTS]
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        why, mend = "is gated", f"Accept its terms at https://huggingface.co/{hub_id}, then log in"
        cause: Exception = error
    except errors.RevisionNotFoundError as error:
        why, mend = f"has no revision {revision}", "Leave model.revision out for the newest"
        cause = error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        why, mend = "is neither a folder nor a model on the hub", "Check the spelling of model.path"
        cause = error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        why = "is not on this machine, and the hub cannot be reached"
        mend = f"Fetch it where there is a network (hf download {hub_id}) and name that folder"
        cause = error
    raise LmmsteerError(f"model.path={hub_id} {why}.", mend) from cause


def check(folder: Path) -> None:
    """Refuse a folder that lacks what a model needs, before anything heavy is read.

    Raises: LmmsteerError naming the first missing file, what it is for, and how to get it.
    """
    has = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if not has:
        raise LmmsteerError(
            f"model.path={folder} is empty or not a folder.",
            "Name a folder saved by save_pretrained",
        )
    if _is_clipcap(folder):
        clipcap_files.check(folder)
        return
    if has.isdisjoint(WEIGHTS) and not has.isdisjoint(PICKLED):
        raise LmmsteerError(
            f"model.path={folder} holds its weights as pickles (*.bin), which may run code and are"
            " not read.",
            "Make safetensors of them, by a loader that takes nothing but tensors: python -c "
            "'from transformers import AutoModelForImageTextToText as M; import sys; "
            'M.from_pretrained(sys.argv[1], torch_dtype="auto", weights_only=True)'
            f".save_pretrained(sys.argv[1])' {shlex.quote(str(folder))}",
        )
    needs = (
        (("config.json",), "the model's layout is unknown", "model.save_pretrained(folder)"),
        (WEIGHTS, "there are no weights", "model.save_pretrained(folder)"),
        (
            ("preprocessor_config.json", "processor_config.json"),
            "pictures cannot be prepared",
            "processor.save_pretrained(folder)",
        ),
        (
            ("tokenizer.json", "tokenizer.model", "vocab.json"),
            "prompts cannot be tokenized",
            "processor.save_pretrained(folder)",
        ),
    )
    for names, consequence, command in needs:
        if has.isdisjoint(names):
            raise LmmsteerError(
                f"model.path={folder} has no {names[0]}, so {consequence}.",
                f"Save what is missing beside the rest ({command}) or name a hub id: "
                "model.path=llava-hf/llava-1.5-7b-hf",
            )
    for shard in _weights(folder):
        if shard.suffix not in (".safetensors", ".json"):
            raise LmmsteerError(
                f"model.path={folder} names {shard.name} in its weight index, which is not a"
                " safetensors file.",
                "Save the model again: model.save_pretrained(folder)",
            )
        if not shard.exists():
            raise LmmsteerError(
                f"model.path={folder} lacks {shard.name}, which its weight index names.",
                "Fetch or copy the model again; the copy is incomplete",
            )


def digest(folder: Path) -> str:
    """sha256 over the files that define answers: weights, configs, tokenizer, processor, template.

    For each file, in the order of names: its name, its length and its bytes. Not over READMEs.
    """
    total = hashlib.sha256()
    settings = [folder / name for name in SETTINGS if (folder / name).exists()]
    found = clipcap_files.files(folder) if _is_clipcap(folder) else [*settings, *_weights(folder)]
    named = {file.relative_to(folder).as_posix(): file for file in found}
    for name, file in sorted(named.items()):
        total.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            total.update(_sha256(stream))
    return total.hexdigest()


def _sha256(stream: BinaryIO) -> bytes:
    found = hashlib.sha256()
    while block := stream.read(1 << 22):
        found.update(block)
    return found.digest()


def _weights(folder: Path) -> list[Path]:
    """The weight files that transformers would load, an index and its shards among them."""
    for name in WEIGHTS:
        file = folder / name
        if file.exists():
            if not name.endswith(".index.json"):
                return [file]
            shards = sorted(set(read_json(file).get("weight_map", {}).values()))
            return [file, *(folder / shard for shard in shards)]
    return []


def _is_clipcap(folder: Path) -> bool:
    known = (folder / "config.json").exists()
    return clipcap_files.is_clipcap(folder, config(folder).get("model_type", "") if known else None)


def config(folder: Path) -> dict[str, Any]:
    """The model's config.json as it stands."""
    return read_json(folder / "config.json")


def d_model(folder: Path) -> int:
    """Width of the decoder's residual stream, from config.json alone."""
    return _text(folder, ("hidden_size", "n_embd"), 0)


def n_layers(folder: Path) -> int:
    """Number of decoder blocks, from config.json alone."""
    return _text(folder, ("num_hidden_layers", "n_layer"), 1)


def vocab_size(folder: Path) -> int | None:
    """Width of the logits, from config.json alone; None where it does not say."""
    whole = config(folder / "gpt2" if _is_clipcap(folder) else folder)
    found = (whole.get("text_config") or {}).get("vocab_size", whole.get("vocab_size"))
    return None if found is None else int(found)


def model_type(folder: Path) -> str:
    """The type of the model, by which its family is known."""
    return "clipcap" if _is_clipcap(folder) else str(config(folder).get("model_type"))


def tokenizer_digest(folder: Path) -> str:
    """sha256 over the files that say which token has which id."""
    total = hashlib.sha256()
    names = ("tokenizer.json",) if any(folder.rglob("tokenizer.json")) else VOCABULARY
    for file in sorted(path for name in names for path in folder.rglob(name)):
        with file.open("rb") as stream:
            total.update(_sha256(stream))
    return total.hexdigest()


def _text(folder: Path, keys: tuple[str, ...], default: int) -> int:
    whole = config(folder / "gpt2" if _is_clipcap(folder) else folder)
    text = whole.get("text_config") or whole
    for key in keys:
        if key in text:
            return int(text[key])
    kind = text.get("model_type", whole.get("model_type", "llava"))
    if kind not in TEXT_DEFAULTS:
        raise LmmsteerError(
            f"{folder / 'config.json'} does not give the decoder's {keys[0]}.",
            "Save the model again with transformers (model.save_pretrained(folder))",
        )
    return TEXT_DEFAULTS[kind][default]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file of the model folder.

    Raises: LmmsteerError where the file is missing or is no JSON object.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LmmsteerError(
            f"{file} cannot be read as JSON: {error}.", "Fetch or save the model again"
        ) from error
    if not isinstance(found, dict):
        raise LmmsteerError(f"{file} is not a JSON object.", "Fetch or save the model again")
    return found
