"""Published files of texts, made small in their layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.text_files import benign_questions, read_texts

BIOS = [
    {"hard_text": "She is a nurse.", "profession": 13, "gender": 1},
    {"hard_text": "He is a surgeon.", "profession": 25, "gender": 0},
    {"hard_text": "", "profession": 25, "gender": 0},
]


def sentences(*said: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"id": "x", "sentence": text, "labels": [], "gold_label": gold} for text, gold in said]


STEREOSET = {
    "version": "1.1",
    "data": {
        "intersentence": [
            {
                "id": "1",
                "target": "Ethiopia",
                "bias_type": "race",
                "context": "I met one.",
                "sentences": sentences(
                    ("A claim.", "stereotype"), ("Its opposite.", "anti-stereotype")
                ),
            }
        ],
        "intrasentence": [
            {
                "id": "2",
                "target": "mother",
                "bias_type": "gender",
                "context": "Mothers are BLANK.",
                "sentences": sentences(
                    ("Mothers are x.", "stereotype"), ("Mothers are fish.", "unrelated")
                ),
            }
        ],
    },
}


def test_bias_in_bios_is_read_as_the_hub_has_it(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(BIOS), tmp_path / "train-00000-of-00001.parquet")
    found = read_texts(str(tmp_path / "train-00000-of-00001.parquet"))
    assert found == [("She is a nurse.", "female"), ("He is a surgeon.", "male")]


def test_wikipedia_toxicity_is_read_as_published(tmp_path: Path) -> None:
    file = tmp_path / "wiki_train.csv"
    file.write_text('comment,is_toxic,split\n"Two\nlines, ""so""",False,train\nYou fool,1,train\n')
    assert read_texts(str(file)) == [('Two\nlines, "so"', "non-toxic"), ("You fool", "toxic")]


def test_stereosets_own_file_and_the_hubs_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "dev.json").write_text(json.dumps(STEREOSET))
    expected = [
        ("I met one. A claim.", "stereotype"),
        ("I met one. Its opposite.", "other"),
        ("Mothers are x.", "other"),
    ]
    assert read_texts(str(tmp_path / "dev.json"), "race") == expected
    numbers = {"anti-stereotype": 0, "stereotype": 1, "unrelated": 2}
    for kind in STEREOSET["data"].values():  # type: ignore[attr-defined]
        rows = [
            {
                **{key: item[key] for key in ("id", "target", "bias_type", "context")},
                "sentences": {
                    "sentence": [s["sentence"] for s in item["sentences"]],
                    "gold_label": [numbers[s["gold_label"]] for s in item["sentences"]],
                },
            }
            for item in kind
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hub.parquet")
        attribute = rows[0]["bias_type"]
        found = read_texts(str(tmp_path / "hub.parquet"), attribute)
        assert [text for text, _ in found] == [t for t, _ in expected if t in dict(found)]
        assert found[0][1] == "stereotype"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"comment,is_toxic\nhm,maybe\n", "is_toxic is 'maybe', neither 0 nor 1"),
        ("a.csv", b"comment;is_toxic\nhm;1\n", "no column 'text'"),
        ("a.csv", b"comment,is_toxic\ncaf\xe9,1\n", "line 2: byte 4 is 0xe9, not UTF-8"),
        ("a.csv", b"comment,is_toxic\nhm\n", "line 2: 1 fields, and 2 columns"),
        ("a.csv", b"text,label\n", "no labelled text"),
        ("dev.json", b'{"data": {"intersentence": []}}', "no column 'intrasentence'"),
        ("dev.json", b"[1]", "cannot be read"),
        ("dev.json", b"{", "cannot be read"),
        ("dev.json", json.dumps(STEREOSET).encode(), "items of gender, race, and none of attrib"),
    ],
)
def test_malformed_ones_are_refused_in_a_sentence(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LmmsteerError) as caught:
        read_texts(str(tmp_path / name), "age")
    assert reason in caught.value.what
    assert "\n" not in caught.value.what


def instruct(*turns: str) -> dict[str, Any]:
    who = ("human", "gpt") * len(turns)
    said = [{"from": one, "value": text} for one, text in zip(who, turns, strict=False)]
    return {"id": "000000033471", "image": "000000033471.jpg", "conversations": said}


def test_questions_of_records_that_mention_the_attribute_in_any_turn_are_left_out(
    tmp_path: Path,
) -> None:
    records = [
        instruct("<image>\nWhat colour is the bus?", "Red.", "And the man?", "He waits."),
        instruct("What is on the table?\n<image>", "A manual."),
        instruct("Is the WOMAN old?\n<image>", "Yes."),
        instruct("What is on the table?\n<image>", "A cup."),
        instruct("Where is this?", "In a town."),
        instruct("When is this?", "At night."),
    ]
    file = tmp_path / "llava_instruct_80k.json"
    file.write_text(json.dumps(records))
    found = benign_questions(str(file), ["man", "woman", "he"], 2)
    assert found == ["What is on the table?", "Where is this?"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file or directory."),
        (b"{", "is no file of LLaVA-Instruct"),
        (b'[{"id": 1}]', "a record without 'conversations'."),
        (b"[]", "has no record without"),
        (b'[{"conversations": [{"from": "human", "value": "A man?"}]}]', "has no record without"),
    ],
)
def test_files_without_benign_questions_are_refused(
    content: bytes | None, reason: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(LmmsteerError) as caught:
        benign_questions(str(tmp_path / "x.json"), ["man"], 5)
    assert reason in caught.value.what
