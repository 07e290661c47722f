"""What ALA learns: a classifier of texts, one of pictures, and the texts to learn from."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lmmsteer.engine.edit import Edit
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.attributions import padded
from lmmsteer.methods.base import Features, Learning
from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm
from lmmsteer.models.text_classifier import HEADS, HIDDEN, LAYERS, LENGTH, WIDTH, Weights, logits
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


def read_texts(path: str) -> list[tuple[str, str]]:
    """Texts with their labels from a CSV, JSONL or Parquet file with the columns text and label.

    Raises: LmmsteerError for a file that is not there, is none of these, or lacks a column.
    """
    mend = "Give a .csv, .jsonl or .parquet file with the columns text and label: method.texts=FILE"
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    read = readers.get(Path(path).suffix.casefold())
    if read is None:
        raise LmmsteerError(f"method.texts={path} is of no kind that is read.", mend)
    try:
        rows = [(row["text"], row["label"]) for row in read(Path(path))]
    except OSError as error:
        why = error.strerror or error
        raise LmmsteerError(f"method.texts={path} cannot be read: {why}.", mend) from error
    except (ValueError, TypeError) as error:
        raise LmmsteerError(f"method.texts={path} cannot be read: {error}.", mend) from error
    except KeyError as error:
        raise LmmsteerError(f"method.texts={path} has no column {error}.", mend) from error
    kept = [(str(text), str(label)) for text, label in rows if text and label is not None]
    if not kept:
        raise LmmsteerError(f"method.texts={path} holds no labelled text.", mend)
    return kept


def _csv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        yield from csv.DictReader(stream)


def _jsonl_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        yield from (json.loads(line) for line in stream if line.strip())


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    from pyarrow import ArrowException
    from pyarrow import parquet as pq

    try:
        yield from pq.read_table(path).to_pylist()
    except ArrowException as error:
        raise ValueError(str(error)) from error


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
    found = Texts([], [], [])
    shown = {image_id: learning.pictures[image_id] for image_id in labels}
    for response in learning.answer(lmm, requests, shown, Edit(), max_new_tokens, 1.0):
        if response.token_ids:
            found.ids.append(list(response.token_ids))
            found.labels.append(labels[response.image_id])
            found.groups.append(response.image_id)
    return found


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


class _Network(nn.Module):
    """The text classifier with dropout, for training alone."""

    def __init__(self, vocab_size: int, classes: int, dropout: float) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout, batch_first=True)
        self.token = nn.Embedding(vocab_size, WIDTH)
        self.position = nn.Embedding(LENGTH, WIDTH)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids >= 0
        places = torch.arange(ids.shape[1])
        x = self.dropout(self.token(ids.clamp(min=0)) + self.position(places))
        x = self.encoder(x, src_key_padding_mask=~mask)
        shown = mask.unsqueeze(-1).to(x.dtype)
        return self.head((x * shown).sum(1) / shown.sum(1))


@dataclass(frozen=True)
class Training:
    """How a text classifier is trained: AdamW on the cross entropy.

    Source: Jung, Chai and Wang, ICLR 2026 (ALA), public code: lr 2e-5, batch 16, dropout 0.1; 3
    epochs (gender), 10 (toxicity), 150 at 1e-4 (race).
    """

    epochs: int = 3
    batch: int = 16
    lr: float = 2e-5
    dropout: float = 0.1
    seed: int = 0


def train_text_classifier(
    texts: Texts, vocab_size: int, classes: int, how: Training
) -> dict[str, Tensor]:
    """The weights of a text classifier (`text_classifier.shapes`).

    On the CPU whatever the model's device: the same texts and seed give the same weights.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(how.seed)
        network = _Network(vocab_size, classes, how.dropout).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=how.lr)
        for _ in range(how.epochs):
            for chosen in torch.randperm(len(texts)).split(how.batch):
                batch = texts.some(chosen.tolist())
                found = network(padded(batch.ids))
                optimizer.zero_grad()
                cross_entropy(found, torch.tensor(batch.labels)).backward()
                optimizer.step()
        return {name: weight.detach().clone() for name, weight in network.state_dict().items()}


def text_accuracy(weights: Weights, texts: Texts, batch: int = 64) -> float | None:
    """Share of texts whose class is found; None for no texts."""
    right = 0
    for start in range(0, len(texts), batch):
        some = texts.some(range(start, min(start + batch, len(texts))))
        found = logits(weights, padded(some.ids)).argmax(-1)
        right += int((found == torch.tensor(some.labels)).sum())
    return right / len(texts) if len(texts) else None


@dataclass(frozen=True, eq=False)
class PictureClassifier:
    """P(class | picture) = softmax(W f + b), f: the model's own picture features.

    coefficients W: [classes, width]; intercepts b: [classes]; the first row is zero for two classes
    (logistic regression). f: `PictureFeatures`.
    """

    coefficients: Tensor
    intercepts: Tensor

    def probabilities(self, features: Tensor) -> Tensor:
        """features: [pictures, width] -> [pictures, classes] float64.

        Raises: LmmsteerError for features of another width.
        """
        width = self.coefficients.shape[1]
        if features.shape[1] != width:
            raise LmmsteerError(
                f"The picture classifier reads {width} features, and the model has "
                f"{features.shape[1]}.",
                "Fit it on this model: lmmsteer fit",
            )
        scores = features.double() @ self.coefficients.double().T + self.intercepts.double()
        return scores.softmax(-1)


class PictureFeatures:
    """What a model sees of pictures, by image id; every picture is looked at once.

    The mean over its tokens of a picture as the decoder reads it, padding left out. features: the
    engine's own, from its cache; without, one picture at a time, so that its neighbours cannot
    change its last bits.
    """

    def __init__(
        self, lmm: Lmm, pictures: Mapping[str, Image.Image], features: Features | None = None
    ) -> None:
        self.lmm, self.pictures, self.features = lmm, pictures, features
        self._known: dict[str, Tensor] = {}

    def of(self, image_ids: Sequence[str]) -> Tensor:
        """[images, width] float32, on the CPU."""
        new = [name for name in dict.fromkeys(image_ids) if name not in self._known]
        for some in [new] if self.features is not None else [[name] for name in new]:
            self._known.update(zip(some, self._seen(some), strict=True))
        return torch.stack([self._known[image_id] for image_id in image_ids])

    @torch.no_grad()
    def _seen(self, image_ids: Sequence[str]) -> list[Tensor]:
        if not image_ids:
            return []
        decoding = DECODING[self.lmm.family.name]
        prepared = [self.lmm.prepare(self.pictures[image_id]) for image_id in image_ids]
        found = (self.features or decoding.features)(self.lmm, prepared)
        ends = [decoding.valid(self.lmm, picture) or None for picture in prepared]
        return [x[:end].float().mean(0).cpu() for x, end in zip(found, ends, strict=True)]


def fit_picture_classifier(
    features: Tensor, labels: Sequence[int], classes: int
) -> PictureClassifier:
    """Logistic regression on standardized features (L2, C = 1; several classes: multinomial).

    features: [pictures, width]. Source: ALA's public code: scikit-learn, lbfgs, 1000 iterations;
    the features' scale is folded into the coefficients.
    """
    from sklearn.linear_model import LogisticRegression  # Slow to import; only a fit needs it.

    x = features.double()
    mean, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    model = LogisticRegression(max_iter=1000).fit(((x - mean) / scale).numpy(), list(labels))
    weights = torch.as_tensor(model.coef_, dtype=torch.float64) / scale
    offsets = torch.as_tensor(model.intercept_, dtype=torch.float64) - weights @ mean
    if classes == 2:
        weights = torch.cat([torch.zeros_like(weights), weights])
        offsets = torch.cat([torch.zeros_like(offsets), offsets])
    return PictureClassifier(weights.float(), offsets.float())


def learn_pictures(
    lmm: Lmm, learning: Learning, labels: Mapping[str, int], classes: Sequence[str], seed: int
) -> tuple[PictureClassifier, float | None]:
    """Fit a picture classifier on the labelled pictures; a fifth is held out.

    Result: the classifier, and the share of the held-out ones that it tells right (None: of none).
    Raises: LmmsteerError for a class with fewer than two pictures.
    """
    counts = Counter(labels.values())
    if few := [name for at, name in enumerate(classes) if counts[at] < 2]:
        raise LmmsteerError(
            f"Fewer than two pictures are labelled {' or '.join(few)}, so pictures cannot be "
            f"classified by {learning.attribute.name}.",
            "Name a data set whose pictures are labelled, or another target: method.target=0.0",
        )
    learning.say(f"looking at {len(labels)} pictures")
    features = PictureFeatures(lmm, learning.pictures).of(list(labels))
    targets = torch.tensor(list(labels.values()))
    own, held = split(targets.tolist(), list(labels), seed)
    found = fit_picture_classifier(features[own], targets[own].tolist(), len(classes))
    accuracy = None
    if held:
        right = found.probabilities(features[held]).argmax(-1) == targets[held]
        accuracy = right.double().mean().item()
    learning.say(f"pictures by {learning.attribute.name}: {shown_accuracy(accuracy)}")
    return found, accuracy


def labelled(learning: Learning, classes: Sequence[str], most: int) -> dict[str, int]:
    """The class of each of the first pictures that have one."""
    known = [
        (image_id, classes.index(learning.labels[image_id]))
        for image_id in islice(learning.pictures, most)
        if learning.labels.get(image_id) in classes
    ]
    return dict(known)


def shown_accuracy(accuracy: float | None) -> str:
    return "none were held out" if accuracy is None else f"{accuracy:.0%} of those held out right"


def data_digest(pictures: Mapping[str, Image.Image], labels: Mapping[str, int]) -> str:
    """sha256 over the labelled pictures as they were shown: ids, classes, sizes, RGB bytes."""
    found = hashlib.sha256()
    for image_id, label in labels.items():
        picture = pictures[image_id]
        found.update(f"{image_id}\0{label}\0{picture.width}x{picture.height}\0".encode())
        found.update(picture.tobytes())
    return found.hexdigest()
