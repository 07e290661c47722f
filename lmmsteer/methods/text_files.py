"""Files of texts that methods learn from: ours, and published ones as they come.

Texts with labels (`read_texts`), told apart by their columns:

- ours: CSV, JSONL or Parquet with the columns `text` and `label`;
- Bias in Bios (De-Arteaga et al. 2019; https://huggingface.co/datasets/LabHC/bias_in_bios, MIT):
  Parquet, hard_text="She is an assistant professor ...", profession=21, gender=1;
- Wikipedia Toxicity (Wulczyn et al. 2017, CC0; wiki_train.csv): comment="...", is_toxic=False;
- StereoSet (Nadeem et al. 2021; https://github.com/moinnadeem/StereoSet, CC BY-SA 4.0): dev.json,
  or the hub's Parquet: bias_type=race, context="...", sentences with gold_label=stereotype.

Benign questions (`benign_questions`): LLaVA-Instruct-80K (Liu et al. 2023, CC BY 4.0;
https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K, llava_instruct_80k.json): id,
image="000000033471.jpg", conversations=[{from: human, value: "<image>\\nWhat are ..."}, ...].
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmmsteer import texts
from lmmsteer.errors import LmmsteerError

Labelled = tuple[str, str]
Row = Mapping[str, Any]
MEND = (
    "Give a .csv, .jsonl or .parquet file with the columns text and label, or one of Bias in Bios,"
    " Wikipedia Toxicity or StereoSet as published: method.texts=FILE"
)
INSTRUCT = "Give llava_instruct_80k.json of LLaVA-Instruct-150K: method.neutral_from=FILE"
GOLD = ("anti-stereotype", "stereotype", "unrelated")  # The hub's numbers.
FALSE, TRUE = ("0", "false", "0.0"), ("1", "true", "1.0")


def read_texts(path: str, attribute: str = "") -> list[Labelled]:
    """Texts with their labels from a file of one of the layouts above.

    Bias in Bios: female, male. Wikipedia Toxicity: non-toxic, toxic. StereoSet: stereotype for what
    stereotypes by the attribute (race, gender, religion, profession), other for anti-stereotypes
    and for all of other attributes; what is unrelated is left out.
    Raises: LmmsteerError for a file that is not there, is none of these, or lacks a column.
    """
    readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet, ".json": _stereoset_json}
    read = readers.get(Path(path).suffix.casefold())
    if read is None:
        raise LmmsteerError(f"method.texts={path} is of no kind that is read.", MEND)
    try:
        rows = iter(read(Path(path)))
        first = next(rows, None)
        layout = _layout(list(first)) if first is not None else _ours
        kept = [] if first is None else list(layout(_all(first, rows), attribute))
    except OSError as error:
        why = error.strerror or error
        raise LmmsteerError(f"method.texts={path} cannot be read: {why}.", MEND) from error
    except (ValueError, TypeError, RecursionError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise LmmsteerError(f"method.texts={path} cannot be read: {why}.", MEND) from error
    except KeyError as error:
        raise LmmsteerError(f"method.texts={path} has no column {error}.", MEND) from error
    if not kept:
        raise LmmsteerError(f"method.texts={path} holds no labelled text.", MEND)
    return kept


def benign_questions(path: str, words: Iterable[str], count: int) -> list[str]:
    """The first `count` first questions of LLaVA-Instruct records that mention none of the words.

    A record is left out where any turn of it, the human's or the model's, has one of the words, in
    any case. Source: Ratzlaff et al. 2024 (arXiv 2411.12590), section 4.1.
    Raises: LmmsteerError for a file that is not there or not such a one, and where none is left.
    """
    known = [re.escape(word) for word in words]
    mentions = re.compile(rf"\b(?:{'|'.join(known)})\b", re.IGNORECASE) if known else None
    found: dict[str, None] = {}
    try:
        for record in json.loads(texts.from_utf8(Path(path).read_bytes())):
            turns = record["conversations"]
            said = "\n".join(str(turn["value"]) for turn in turns)
            asked = [str(turn["value"]) for turn in turns if turn["from"] == "human"]
            question = asked[0].replace("<image>", "").strip() if asked else ""
            if question and not (mentions and mentions.search(said)):
                found[question] = None
            if len(found) == count:
                break
    except OSError as error:
        why = error.strerror or error
        raise LmmsteerError(
            f"method.neutral_from={path} cannot be read: {why}.", INSTRUCT
        ) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        named = f"a record without {error}" if isinstance(error, KeyError) else str(error)
        raise LmmsteerError(
            f"method.neutral_from={path} is no file of LLaVA-Instruct: {named}.", INSTRUCT
        ) from error
    if not found:
        raise LmmsteerError(
            f"method.neutral_from={path} has no record without the attribute's words.",
            INSTRUCT,
        )
    return list(found)


def _all(first: Row, rest: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rest


def _csv(path: Path) -> Iterator[Row]:
    return (row for _, row in texts.csv_rows(texts.from_utf8(path.read_bytes())))


def _jsonl(path: Path) -> Iterator[Row]:
    return (row for _, row in texts.json_rows(texts.from_utf8(path.read_bytes())))


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException
    from pyarrow import parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                yield from batch.to_pylist()
    except ArrowException as error:
        raise ValueError(str(error)) from error


def _stereoset_json(path: Path) -> Iterator[Row]:
    """Items of StereoSet's own file, with the hub's columns."""
    found = json.loads(texts.from_utf8(path.read_bytes()))
    for kind in ("intersentence", "intrasentence"):
        for item in found["data"][kind]:
            names = ("sentence", "gold_label")
            sentences = {name: [s[name] for s in item["sentences"]] for name in names}
            yield {"sentences": sentences, **{n: item[n] for n in ("bias_type", "context")}}


def _layout(columns: Sequence[str]) -> Callable[[Iterable[Row], str], Iterator[Labelled]]:
    for needed, read in (
        ({"hard_text", "gender"}, _bias_in_bios),
        ({"comment", "is_toxic"}, _wiki_toxicity),
        ({"bias_type", "sentences"}, _stereoset),
    ):
        if needed <= set(columns):
            return read
    return _ours


def _ours(rows: Iterable[Row], attribute: str) -> Iterator[Labelled]:
    for row in rows:
        text, label = row["text"], row["label"]
        if text and label is not None:
            yield str(text), str(label)


def _bias_in_bios(rows: Iterable[Row], attribute: str) -> Iterator[Labelled]:
    for row in rows:
        if row["hard_text"]:
            yield str(row["hard_text"]), _either(row["gender"], ("male", "female"), "gender")


def _wiki_toxicity(rows: Iterable[Row], attribute: str) -> Iterator[Labelled]:
    for row in rows:
        if row["comment"]:
            yield str(row["comment"]), _either(row["is_toxic"], ("non-toxic", "toxic"), "is_toxic")


def _stereoset(rows: Iterable[Row], attribute: str) -> Iterator[Labelled]:
    kinds: set[str] = set()
    found: list[Labelled] = []
    for row in rows:
        kinds.add(str(row["bias_type"]))
        said, labels = row["sentences"]["sentence"], row["sentences"]["gold_label"]
        for sentence, label in zip(said, labels, strict=True):
            kind = GOLD[label] if isinstance(label, int) else str(label)
            if kind == "unrelated":
                continue
            text = f"{row['context']} {sentence}" if _follows(row) else sentence
            own = row["bias_type"] == attribute and kind == "stereotype"
            found.append((text.strip(), "stereotype" if own else "other"))
    if attribute not in kinds:
        raise ValueError(
            f"it has items of {', '.join(sorted(kinds))}, and none of attribute={attribute}"
        )
    yield from found


def _follows(row: Row) -> bool:
    """Whether the sentence follows the context, and does not fill a blank in it."""
    return bool(row["context"]) and "BLANK" not in str(row["context"])


def _either(value: Any, names: tuple[str, str], column: str) -> str:
    """The name of a column's 0 or 1."""
    said = str(value).strip().lower()
    if said not in (*FALSE, *TRUE):
        raise ValueError(f"{column} is {texts.shown(str(value))}, neither 0 nor 1")
    return names[said in TRUE]
