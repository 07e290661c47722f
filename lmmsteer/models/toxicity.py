"""How toxic a text is, by a text classifier of the user's own.

Knows texts and probabilities, and nothing of answers or cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lmmsteer import device
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.models import toxicity_files as files
from lmmsteer.models.loading import quiet

TOXIC = ("toxic", "toxicity")
LONGEST = 512  # Tokens, where neither the classifier nor its tokenizer says how many it can see.
INPUTS = ("input_ids", "attention_mask")
PIECE = 64  # Batches whose texts are tokenized at a time.


class ToxicityModel:
    """P(toxic) of texts, in float32.

    One label of several (softmax): the sum of the toxic labels' probabilities. Labels by themselves
    (sigmoid: problem_type multi_label_classification, or a single output): the largest of them.
    Texts are cut to the tokens that the classifier can see; `cut` counts the cut ones.

    folder: saved by save_pretrained, with its tokenizer. label: name or number of the toxic label,
    or a list of them; None finds the label named toxic or toxicity. kind: auto, cuda, hpu, cpu.
    batch: texts at a time, those of about one length together.
    Raises: LmmsteerError for a folder, label, device or batch that cannot be used.
    """

    def __init__(self, folder: str, label: Any = None, kind: str = "auto", batch: int = 32) -> None:
        path = files.check(folder)
        if batch < 1:
            raise LmmsteerError(
                f"analysis.toxicity_batch={batch} is too small.", "Give at least 1."
            )
        card = _device(kind)
        config = files.read_config(path)
        self.batch, self.cut, self.name = batch, 0, path.resolve().name
        self.names = [str(config.id2label.get(at, at)) for at in range(config.num_labels)]
        self.labels = toxic_labels(self.names, label, folder)
        self.sigmoid = config.problem_type == "multi_label_classification" or config.num_labels == 1
        self.tokenizer = files.read_tokenizer(path)
        self.model = files.read_weights(path).to(card.torch_device())
        self.length = _length(self.tokenizer, self.model)
        self._try(folder)

    @property
    def about(self) -> dict[str, Any]:
        """What the probabilities were made with."""
        return {
            "classifier": self.name,
            "labels": [self.names[at] for at in self.labels],
            "probability": "largest sigmoid" if self.sigmoid else "sum of the softmax",
            "longest": f"{self.length} tokens",
            "cut": self.cut,
        }

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """P(toxic) in [0, 1] of each text; 0 of a text of blanks, and of one without a token.

        Raises: RunFailed where the card's memory does not hold a batch.
        """
        found = [0.0] * len(texts)
        for places, ids in self._batches(texts):
            try:
                with torch.inference_mode():
                    scored = self._toxic(self._logits(ids)).tolist()
            except torch.OutOfMemoryError as error:
                raise RunFailed(
                    f"The card's memory does not hold {self.batch} texts at a time.",
                    f"Take fewer: analysis.toxicity_batch={max(1, self.batch // 2)}",
                ) from error
            for place, value in zip(places, scored, strict=True):
                found[place] = value
        return found

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Places and token ids of texts, longest first: a card that is too small says so early."""
        places = [place for place, text in enumerate(texts) if text.strip()]
        places.sort(key=lambda place: -len(texts[place]))
        for start in range(0, len(places), self.batch * PIECE):
            these = places[start : start + self.batch * PIECE]
            ids = self._ids([texts[place] for place in these])
            order = sorted((i for i in range(len(ids)) if ids[i]), key=lambda i: -len(ids[i]))
            for first in range(0, len(order), self.batch):
                some = order[first : first + self.batch]
                yield [these[i] for i in some], [ids[i] for i in some]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids with the classifier's special tokens, at most `length` of them."""
        with quiet():
            ids = self.tokenizer(texts)["input_ids"]
            long = [at for at, found in enumerate(ids) if len(found) > self.length]
            for at in long:
                kept = self.tokenizer(texts[at], truncation=True, max_length=self.length)
                ids[at] = kept["input_ids"]
        self.cut += len(long)
        return ids

    def _logits(self, ids: list[list[int]]) -> Tensor:
        """[texts, labels]"""
        with quiet():
            padded = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        inputs = {name: padded[name].to(self.model.device) for name in INPUTS}
        return self.model(**inputs).logits.float()

    def _toxic(self, logits: Tensor) -> Tensor:
        if self.sigmoid:
            return logits[:, self.labels].sigmoid().amax(-1)
        return logits.softmax(-1)[:, self.labels].sum(-1).clamp(max=1.0)

    def _try(self, folder: str) -> None:
        """Score two texts of different lengths at once, which needs a padding token."""
        ids = self._ids(["The person in the picture smiles.", "A person."])
        try:
            with torch.inference_mode():
                self._logits(ids)
        except (ValueError, IndexError, TypeError, KeyError) as error:
            raise LmmsteerError(
                f"analysis.toxicity={folder} cannot score two texts at once: "
                f"{files.clause(error)}.",
                "Set pad_token in its tokenizer and pad_token_id in its config, and save both.",
            ) from error


def toxic_labels(names: Sequence[str], asked: Any, folder: str) -> list[int]:
    """The numbers of the toxic labels: those asked for, by name or number, or the one so named.

    Raises: LmmsteerError for a label that is not there, and where not exactly one is so named.
    """
    there = ", ".join(f"{at}: {name}" for at, name in enumerate(names))
    mend = f"Name it, or several: analysis.toxicity_label=LABEL. There are: {there}"
    if asked is None:
        named = [at for at, name in enumerate(names) if name.strip().lower() in TOXIC]
        if len(names) > 1 and len(named) != 1:
            raise LmmsteerError(
                f"Which label of analysis.toxicity={folder} means toxic is not to be told.", mend
            )
        return named or [0]
    known = {str(at): at for at in range(len(names))}
    known |= {name.strip().lower(): at for at, name in enumerate(names)}
    wanted = [str(one).strip().lower() for one in (asked if isinstance(asked, list) else [asked])]
    absent = [one for one in wanted if one not in known]
    if absent or not wanted:
        raise LmmsteerError(
            f"analysis.toxicity_label={asked} is no label of analysis.toxicity={folder}.", mend
        )
    return sorted({known[one] for one in wanted})


def _device(kind: str) -> device.Device:
    try:
        return device.detect(kind)
    except LmmsteerError as error:
        what = error.what.replace("device.kind", "analysis.toxicity_device")
        raise LmmsteerError(what, "Use analysis.toxicity_device=auto or cpu") from error


def _length(tokenizer: Any, model: Any) -> int:
    """Tokens that the classifier has positions for and its tokenizer allows."""
    places = [
        table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        for name, table in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(table, torch.nn.Embedding)
    ]
    own = min(places, default=getattr(model.config, "max_position_embeddings", None) or LONGEST)
    return int(min(tokenizer.model_max_length, own if own > 0 else LONGEST))
