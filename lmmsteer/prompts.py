"""Prompts: a file of them, and what a prompt with a label's place in it asks of a picture.

A file is a YAML mapping of id to text, or CSV with the columns id and text. `[OCCUPATION]` in a
prompt, or any other label's name so, stands for what the picture is labelled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from lmmsteer import texts
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import LABELS

PLACE = re.compile(rf"\[({'|'.join(label.upper() for label in LABELS)})\]")
Question = tuple[str, str, int]
"""A prompt's id, its text as it is asked, and a seed."""

MEND = "Write a YAML mapping of id: text, or a CSV file with the columns id and text."


def read_prompts(path: Path) -> dict[str, str]:
    """The prompts of a file by id, in its order.

    Raises: LmmsteerError that names the line which is not as it should be.
    """
    found: dict[str, str] = {}
    try:
        text = texts.from_utf8(path.read_bytes())
        read = _csv if path.suffix.lower() == ".csv" else _yaml
        for line, key, prompt in read(text):
            if key in found:
                raise ValueError(f"line {line}: the id {key} stands twice")
            if problem := texts.problem_of_name(key) or texts.problem_of_text(prompt):
                raise ValueError(f"line {line}: {problem}")
            found[key] = prompt
    except OSError as error:
        why = f"prompts.file={path} cannot be read: {error.strerror}."
        raise LmmsteerError(why, MEND) from error
    except ValueError as error:
        raise LmmsteerError(f"prompts.file={path}: {error}.", MEND) from error
    return found


def filled(prompt: str, labels: Mapping[str, str | None]) -> str | None:
    """The prompt with the labels in their places; None where it has a place and there is none."""
    lacking = [name for name in PLACE.findall(prompt) if not labels.get(name.lower())]
    return None if lacking else PLACE.sub(lambda m: str(labels[m[1].lower()]), prompt)


def questions(
    prompts: Mapping[str, str], seeds: Sequence[int], labels: Mapping[str, str | None]
) -> list[Question]:
    """What is asked of a picture with these labels: prompts x seeds, the seeds fastest.

    A prompt with the place of a label that the picture does not have is left out.
    """
    asked = [(key, filled(text, labels)) for key, text in prompts.items()]
    return [(key, text, seed) for key, text in asked if text is not None for seed in seeds]


def asks_labels(prompts: Mapping[str, str]) -> bool:
    """Whether what is asked hangs on the picture: a prompt has the place of a label."""
    return any(PLACE.search(text) for text in prompts.values())


def _csv(text: str) -> Iterator[tuple[int, str, str]]:
    rows = 0
    for line, row in texts.csv_rows(text):
        if not {"id", "text"} <= set(row):
            break
        rows += 1
        yield line, row["id"], row["text"]
    if not rows:
        raise ValueError("line 1: no columns id and text, or no row below them")


def _yaml(text: str) -> Iterator[tuple[int, str, str]]:
    for key, value in _mapping(_composed(text)).value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
            raise ValueError(f"line {line}: no id with its text")
        if value.tag != "tag:yaml.org,2002:str":
            raise ValueError(f"line {line}: the prompt {key.value} is no text; put it in quotes")
        yield line, key.value, value.value


def _composed(text: str) -> yaml.Node | None:
    """The file's nodes, which know their lines; nothing is constructed of them."""
    try:
        return yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ValueError(f"line {line}: no valid YAML, {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"line {line}: no valid YAML, {error.reason}") from error
    except RecursionError as error:
        raise ValueError("no valid YAML, nested too deeply") from error


def _mapping(node: yaml.Node | None) -> yaml.MappingNode:
    """The prompts themselves, or those below `items`, as in a prompts config."""
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("it is not a mapping of id to text")
    for key, value in node.value:
        if key.value == "items" and isinstance(value, yaml.MappingNode):
            return value
    return node
