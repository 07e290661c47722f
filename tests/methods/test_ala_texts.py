"""Texts to learn from, their classes, and the training of the text classifier."""

from dataclasses import replace

import pytest
import torch

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.ala_texts import Texts, classes_of, split
from lmmsteer.methods.ala_training import Training, text_accuracy, train_text_classifier
from lmmsteer.methods.text_files import read_texts


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (["man", "woman", "man"], ["woman", "man"]),
        (["Male", "Female"], ["Female", "Male"]),
        (["toxic", "non-toxic"], ["non-toxic", "toxic"]),
        (["young", "old", "middle", "young", "old"], ["old", "young"]),
    ],
)
def test_without_names_the_two_most_frequent_labels_are_the_classes(found, wanted):
    assert classes_of(found, None) == wanted


def test_training_is_deterministic_and_leaves_the_global_generator_alone():
    texts = Texts([[1, 2, 3], [4, 5]] * 6, [0, 1] * 6, list("abcdefghijkl"))
    how = Training(epochs=10, lr=1e-3)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = train_text_classifier(texts, 10, 2, how)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    second = train_text_classifier(texts, 10, 2, how)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert text_accuracy(first, texts) == 1.0
    other = train_text_classifier(texts, 10, 2, replace(how, seed=1))
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_a_fifth_of_each_class_is_held_out_and_no_group_is_torn():
    groups = [f"{at // 2}" for at in range(60)]
    classes = [at // 2 % 2 for at in range(60)]
    own, held = split(classes, groups, 0)
    assert sorted(own + held) == list(range(60))
    assert not {groups[at] for at in own} & {groups[at] for at in held}
    assert [sum(classes[at] == label for at in held) for label in (0, 1)] == [6, 6]
    assert split(classes, groups, 0) == (own, held) != split(classes, groups, 1)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_texts_are_read_from_files_of_three_kinds(tmp_path, kind):
    import json

    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"text": 'He said, "no"', "label": "toxic"}, {"text": "Ça va", "label": "fine"}]
    file = tmp_path / f"texts.{kind}"
    if kind == "csv":
        file.write_text(
            'text,label\n"He said, ""no""",toxic\nÇa va,fine\n,fine\n', encoding="utf-8"
        )
    elif kind == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        parquet.write_table(pa.Table.from_pylist(rows), file)
    assert read_texts(str(file)) == [(row["text"], row["label"]) for row in rows]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("gone.csv", None, "cannot be read"),
        ("texts.txt", "text", "no kind"),
        ("texts.csv", "text,class\na,b\n", "no column 'label'"),
        ("texts.csv", "text,label\n", "no labelled text"),
        ("texts.jsonl", "{", "cannot be read"),
        ("texts.parquet", "text,label\n", "cannot be read"),
    ],
)
def test_files_without_texts_are_refused(tmp_path, name, content, reason):
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(LmmsteerError, match=reason):
        read_texts(str(file))
