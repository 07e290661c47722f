"""What ALA learns from: texts with labels, of a file or the model's own answers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.answers import token_ids
from lmmsteer.methods.base import Learning
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request, row_id

POSITIVE = frozenset({"boy", "he", "male", "man", "men", "stereotype", "stereotypical", "toxic"})
"""Labels that are +1 where nobody says which is: ALA's convention."""
HELD_OUT = 5  # One in so many is held out.


@dataclass(frozen=True, eq=False)
class Texts:
    """Token ids of texts with their classes. groups: what must not be torn apart (a picture's)."""

    ids: list[list[int]]
    labels: list[int]
    groups: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def some(self, chosen: Iterable[int]) -> Texts:
        at = list(chosen)
        return Texts(
            [self.ids[i] for i in at], [self.labels[i] for i in at], [self.groups[i] for i in at]
        )

    def digest(self) -> str:
        """sha256 over ids and classes, in their order."""
        return hashlib.sha256(json.dumps([self.ids, self.labels]).encode()).hexdigest()


def check_classes(classes: Sequence[str] | None) -> None:
    """Raises: LmmsteerError for fewer than two classes, or one that is named twice."""
    if classes is not None and (len(classes) < 2 or len(set(classes)) < len(classes)):
        raise LmmsteerError(
            f"method.classes={list(classes)} does not name two classes or more.",
            "Name them, the negative one first: 'method.classes=[woman, man]'",
        )


def classes_of(labels: Iterable[str], wanted: Sequence[str] | None) -> list[str]:
    """The classes to tell apart, negative first: those wanted, or the two most frequent labels.

    Raises: LmmsteerError where the labels do not hold two classes, or not those wanted.
    """
    counts = Counter(labels)
    if wanted is not None:
        if missing := [name for name in wanted if name not in counts]:
            raise LmmsteerError(
                f"Nothing to learn from is labelled {', '.join(missing)}; the labels are: "
                f"{', '.join(sorted(counts)) or 'none'}.",
                "Name others: 'method.classes=[woman, man]'",
            )
        return list(wanted)
    if len(counts) < 2:
        raise LmmsteerError(
            f"The labels hold {len(counts)} of the two classes that are to be told apart"
            f"{': ' + ', '.join(counts) if counts else ''}.",
            "Fit on a data set whose pictures are labelled with the attribute, or give texts with "
            "labels: method.texts=FILE",
        )
    frequent = sorted(counts, key=lambda name: (-counts[name], name))[:2]
    return sorted(frequent, key=lambda name: (name.casefold() in POSITIVE, name))


def tokenized(lmm: Lmm, rows: Sequence[tuple[str, str]], classes: Sequence[str]) -> Texts:
    """Texts of the classes, each a group of its own; others and empty ones are left out."""
    found = Texts([], [], [])
    for at, (text, label) in enumerate(rows):
        if label not in classes:
            continue
        ids = lmm.tokenizer(text, add_special_tokens=False)["input_ids"]
        if kept := [int(i) for i in ids if i < lmm.vocab_size]:
            found.ids.append(kept)
            found.labels.append(classes.index(label))
            found.groups.append(str(at))
    return found


def own_answers(
    lmm: Lmm,
    learning: Learning,
    labels: Mapping[str, int],
    prompts: Sequence[str],
    max_new_tokens: int,
) -> Texts:
    """The model's own sampled answers to open prompts, labelled as their pictures are.

    labels: the class of each picture. Answers of one picture are one group.
    """
    requests = [
        Request(row_id(image_id, None, prompt, 0), image_id, str(at), prompt, 0)
        for image_id in labels
        for at, prompt in enumerate(prompts)
    ]
    shown = {image_id: learning.pictures[image_id] for image_id in labels}
    said = token_ids(lmm, learning, "answers", requests, shown, max_new_tokens, 1.0)
    whose = [request.image_id for request in requests]
    texts = Texts(said, [labels[image_id] for image_id in whose], whose)
    return texts.some(at for at, ids in enumerate(said) if ids)


def split(labels: Sequence[int], groups: Sequence[str], seed: int) -> tuple[list[int], list[int]]:
    """Places to learn from and places held out: of each class, one group in five."""
    generator = torch.Generator().manual_seed(seed)
    held: set[str] = set()
    for label in sorted(set(labels)):
        names = list(
            dict.fromkeys(g for g, own in zip(groups, labels, strict=True) if own == label)
        )
        order = torch.randperm(len(names), generator=generator).tolist()
        held |= {names[at] for at in order[: len(names) // HELD_OUT]}
    places = range(len(labels))
    return [i for i in places if groups[i] not in held], [i for i in places if groups[i] in held]
