"""Words, target words and annotated bigrams: what counts as a mention of an attribute."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from lmmsteer.errors import LmmsteerError

END = "<end>"
WORD = r"[\p{L}\p{N}'’]+"  # in Rust's syntax; WORD_RE is the same in Python's
WORD_RE = re.compile(r"(?:[^\W_]|['’])+")
LABELS = ("related", "unrelated", "")
SHIPPED = Path(__file__).resolve().parent.parent / "conf" / "attribute"


def words_of(text: pl.Expr) -> pl.Expr:
    """Lower-cased runs of letters, digits and apostrophes, as a list; ’ is an apostrophe."""
    return text.str.to_lowercase().str.replace_all("’", "'", literal=True).str.extract_all(WORD)


def split(text: str) -> list[str]:
    """The same for one string."""
    return [word.replace("’", "'") for word in WORD_RE.findall(text.lower())]


@dataclass(frozen=True)
class Targets:
    """The target words of one attribute, and which of their bigrams count.

    A bigram (first, second) counts if its first word is in `words`, or if it is in `pairs` (target
    words of two words, such as "middle eastern"); then `allowed` keeps only its own bigrams and
    `denied` drops its own. A word that ends a text forms a bigram with `<end>`.
    """

    words: frozenset[str]
    pairs: frozenset[str] = frozenset()
    allowed: frozenset[str] | None = None
    denied: frozenset[str] = frozenset()

    def counts(self, first: str, second: str) -> bool:
        bigram = f"{first} {second}"
        if first not in self.words and bigram not in self.pairs:
            return False
        return bigram not in self.denied and (self.allowed is None or bigram in self.allowed)

    def filter(self) -> pl.Expr:
        """`counts` as an expression over the columns first and second."""
        bigram = pl.concat_str("first", "second", separator=" ")
        counted = pl.col("first").is_in(sorted(self.words)) | bigram.is_in(sorted(self.pairs))
        counted &= ~bigram.is_in(sorted(self.denied))
        return counted if self.allowed is None else counted & bigram.is_in(sorted(self.allowed))

    def to_json(self) -> dict[str, list[str] | None]:
        allowed = None if self.allowed is None else sorted(self.allowed)
        rest = {"words": self.words, "pairs": self.pairs, "denied": self.denied}
        return {**{key: sorted(value) for key, value in rest.items()}, "allowed": allowed}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Targets:
        found = {k: None if v is None else frozenset(v) for k, v in record.items()}
        nothing: frozenset[str] = frozenset()
        kept = {k: found[k] or nothing for k in ("words", "pairs", "denied")}
        return cls(**kept, allowed=found["allowed"])


def targets(
    attribute: str, listed: Iterable[str], annotated: Mapping[str, str] | None, mode: str
) -> Targets:
    """The targets of an attribute from its word list and its annotated bigrams (bigram: label)."""
    entries = [split(entry) for entry in listed]
    long = [" ".join(entry) for entry in entries if len(entry) > 2]
    if long:
        raise LmmsteerError(
            f"The target words of {attribute} hold {long[0]!r}: bigrams have two words.",
            "Shorten it, or name the word of it that matters.",
        )
    words = frozenset(entry[0] for entry in entries if len(entry) == 1)
    pairs = frozenset(" ".join(entry) for entry in entries if len(entry) == 2)
    if annotated is None:
        return Targets(words, pairs)
    labelled = {
        label: frozenset(bigram for bigram, given in annotated.items() if given == label)
        for label in LABELS
    }
    if mode == "allow":
        return Targets(words, pairs, allowed=labelled["related"])
    return Targets(words, pairs, denied=labelled["unrelated"])


def shipped() -> dict[str, list[str]]:
    """The target words of every attribute of conf/attribute that a picture can be asked about."""
    lists = {}
    for path in sorted(SHIPPED.glob("*.yaml")):
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
        if record.get("words") and record.get("question"):
            lists[record["name"]] = record["words"]
    return lists


def read_annotations(path: Path) -> dict[str, dict[str, str]]:
    """An annotation file as {attribute: {bigram: label}}; an empty label is not yet annotated.

    Raises: LmmsteerError where the file, a column or a label is not what it should be.
    """
    mend = (
        "Write a CSV file with the columns bigram, attribute, freq, label (related or unrelated)."
    )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LmmsteerError(f"analysis.bigrams={path} cannot be read: {error}.", mend) from error
    reader = csv.DictReader(text.splitlines())
    missing = [c for c in ("bigram", "attribute", "label") if c not in (reader.fieldnames or [])]
    if missing:
        raise LmmsteerError(f"analysis.bigrams={path} has no column {missing[0]}.", mend)
    labels: dict[str, dict[str, str]] = {}
    for number, row in enumerate(reader, start=2):
        bigram = " ".join((row["bigram"] or "").lower().replace("’", "'").split())
        label = (row["label"] or "").strip().lower()
        if label not in LABELS or len(bigram.split()) != 2:
            raise LmmsteerError(
                f"analysis.bigrams={path} line {number}: {row['bigram']!r} labelled {label!r}.",
                mend,
            )
        labels.setdefault((row["attribute"] or "").strip(), {})[bigram] = label
    return labels
