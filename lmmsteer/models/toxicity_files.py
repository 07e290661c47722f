"""Reads a text classifier from a folder: local files, safetensors, and no code that lies in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from lmmsteer.errors import LmmsteerError
from lmmsteer.models.loading import quiet

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
VOCABULARY = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
NEEDS = (
    (("config.json",), "its labels are unknown", "model.save_pretrained(FOLDER)"),
    (WEIGHTS, "there are no weights that are safe to read", "model.save_pretrained(FOLDER)"),
    (VOCABULARY, "texts cannot be tokenized", "tokenizer.save_pretrained(FOLDER)"),
)


def check(folder: str) -> Path:
    """The folder's path; refuses one that lacks what a classifier needs, before it is read."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise LmmsteerError(
            f"analysis.toxicity={folder} is not a folder.",
            "Name a folder with a text classifier saved by save_pretrained, and its tokenizer.",
        )
    has = {file.name for file in path.iterdir()}
    for names, consequence, command in NEEDS:
        if has.isdisjoint(names):
            raise LmmsteerError(
                f"analysis.toxicity={folder} has no {names[0]}, so {consequence}.",
                f"Save what is missing beside the rest: {command}",
            )
    return path


def read_config(path: Path) -> Any:
    """The config, of a classifier whose outputs are probabilities.

    Raises: LmmsteerError for a damaged file, a model that needs code of its own, a regression.
    """
    config = _read(AutoConfig, path, "config.json")
    if config.problem_type == "regression":
        raise LmmsteerError(
            f"analysis.toxicity={path} is a regression, which gives no probability.",
            "Name a classifier: of one label, of several that exclude each other, or multi-label.",
        )
    return config


def read_tokenizer(path: Path) -> Any:
    """Raises: LmmsteerError where its files are damaged."""
    return _read(AutoTokenizer, path, "tokenizer")


def read_weights(path: Path) -> Any:
    """The model in float32, every weight of it read.

    Raises: LmmsteerError for damaged weights, and for a folder without a trained classifier head.
    """
    try:
        with quiet():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                path,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise LmmsteerError(
            f"The weights of analysis.toxicity={path} cannot be read: {clause(error)}.",
            "Name a sequence classifier, or save it again: model.save_pretrained(FOLDER)",
        ) from error
    absent = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if absent:
        raise LmmsteerError(
            f"analysis.toxicity={path} is no trained text classifier: it holds no {absent[0]}.",
            "Name a folder that was saved from a model for sequence classification.",
        )
    return model.float().eval()


def clause(error: Exception) -> str:
    """The first sentence of an error, on one line and not at any length."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")[:200]


def _read(kind: Any, path: Path, what: str) -> Any:
    try:
        with quiet():
            return kind.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # Damaged tokenizers raise bare Exception, among others.
        raise LmmsteerError(
            f"The {what} of analysis.toxicity={path} cannot be read: {clause(error)}.",
            "Save the classifier again with its tokenizer; code of its own is never run.",
        ) from error
