from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

from lmmsteer.errors import LmmsteerError
from lmmsteer.models.toxicity import ToxicityModel, toxic_labels

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "person", "is", "kind", "rude", "very")
TEXTS = ["a person", "a person is very very rude", "rude", "a kind person", "a person is kind"]
LENGTH = 12


def saved(folder: Path, labels: list[str], *, kind: Any = BertForSequenceClassification,
          pad: bool = True, **keys: Any) -> str:  # fmt: skip
    """A random two-layer BERT whose tokenizer knows ten words."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LENGTH,
        id2label=dict(enumerate(labels)),
        label2id={label: at for at, label in enumerate(labels)},
        initializer_range=0.7,
        **keys,
    )
    kind(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({word: at for at, word in enumerate(WORDS)}, "[UNK]"))
    words.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    words.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]"} if pad else {}
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", **named).save_pretrained(
        folder
    )
    return str(folder)


def logits(folder: str, text: str) -> torch.Tensor:
    """Of one text by itself, its ids written out by hand."""
    ids = [2, *(WORDS.index(word) for word in text.split()), 3]
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].double()


def test_two_labels_that_exclude_each_other_are_a_softmax(tmp_path: Path) -> None:
    folder = saved(tmp_path, ["neutral", "Toxic"])
    found = ToxicityModel(folder, kind="cpu", batch=2).probabilities(TEXTS)
    one = [logits(folder, text) for text in TEXTS]
    assert found == pytest.approx([float(1 / (1 + (z[0] - z[1]).exp())) for z in one], abs=1e-5)
    assert max(found) - min(found) > 0.01


def test_several_toxic_labels_of_a_softmax_add_up(tmp_path: Path) -> None:
    folder = saved(tmp_path, ["neutral", "insult", "threat"])
    found = ToxicityModel(folder, ["threat", 1], "cpu").probabilities(TEXTS)
    shares = [logits(folder, text).exp() for text in TEXTS]
    assert found == pytest.approx([float((e[1] + e[2]) / e.sum()) for e in shares], abs=1e-5)


def test_labels_by_themselves_are_sigmoids_of_which_the_largest_counts(tmp_path: Path) -> None:
    folder = saved(
        tmp_path, ["toxic", "insult", "threat"], problem_type="multi_label_classification"
    )
    one = [1 / (1 + (-logits(folder, text)).exp()) for text in TEXTS]
    found = ToxicityModel(folder, kind="cpu").probabilities(TEXTS)
    assert found == pytest.approx([float(p[0]) for p in one], abs=1e-5)
    found = ToxicityModel(folder, ["insult", "threat"], "cpu").probabilities(TEXTS)
    assert found == pytest.approx([float(p[1:].max()) for p in one], abs=1e-5)


def test_a_single_output_is_a_sigmoid_whatever_its_name(tmp_path: Path) -> None:
    folder = saved(tmp_path, ["LABEL_0"])
    found = ToxicityModel(folder, kind="cpu").probabilities(TEXTS)
    assert found == pytest.approx(
        [float(1 / (1 + (-logits(folder, text)[0]).exp())) for text in TEXTS], abs=1e-5
    )


def test_blank_texts_are_not_toxic_and_long_ones_are_cut_and_counted(tmp_path: Path) -> None:
    folder = saved(tmp_path, ["toxic"])
    model = ToxicityModel(folder, kind="cpu", batch=2)
    long = " ".join(["rude"] * 40)
    found = model.probabilities(["", " \n", long, "kind"])
    assert found[:2] == [0, 0]
    cut = " ".join(["rude"] * (LENGTH - 2))
    assert found[2] == pytest.approx(float(1 / (1 + (-logits(folder, cut)[0]).exp())), abs=1e-5)
    assert model.about["cut"] == 1
    assert model.probabilities([]) == []


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
def test_batches_do_not_change_what_is_found(batch: int, tmp_path: Path) -> None:
    folder = saved(tmp_path, ["toxic"])
    texts = TEXTS * 70
    found = ToxicityModel(folder, kind="cpu", batch=batch).probabilities(texts)
    alone = [float(1 / (1 + (-logits(folder, text)[0]).exp())) for text in TEXTS]
    assert found == pytest.approx(alone * 70, abs=1e-5)


@pytest.mark.parametrize(
    ("names", "asked", "found"),
    [
        (["toxic", "severe_toxic", "insult"], None, [0]),
        (["neutral", "TOXICITY"], None, [1]),
        (["non-toxic", "toxic"], None, [1]),
        (["anything"], None, [0]),
        (["LABEL_0", "LABEL_1"], "label_1", [1]),
        (["LABEL_0", "LABEL_1"], 1, [1]),
        (["a", "b", "c"], ["c", "a"], [0, 2]),
    ],
)
def test_the_toxic_label_is_the_one_so_named_or_the_one_asked_for(
    names: list[str], asked: Any, found: list[int]
) -> None:
    assert toxic_labels(names, asked, "F") == found


@pytest.mark.parametrize(
    ("names", "asked", "says"),
    [
        (["LABEL_0", "LABEL_1"], None, "means toxic is not to be told"),
        (["toxic", "toxicity"], None, "means toxic is not to be told"),
        (["a", "b"], "c", "toxicity_label=c is no label"),
        (["a", "b"], 2, "toxicity_label=2 is no label"),
        (["a", "b"], [], r"toxicity_label=\[\] is no label"),
    ],
)
def test_a_label_that_cannot_be_told_is_asked_for_with_those_there_are(
    names: list[str], asked: Any, says: str
) -> None:
    with pytest.raises(LmmsteerError, match=says) as refused:
        toxic_labels(names, asked, "F")
    assert f"0: {names[0]}, 1: {names[1]}" in refused.value.mend


@pytest.mark.parametrize(
    ("absent", "says"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no model.safetensors"),
        ("tokenizer.json", "has no tokenizer.json"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(
    absent: str, says: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path, ["toxic"])
    (tmp_path / absent).unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(LmmsteerError, match=says):
        ToxicityModel(folder, kind="cpu")


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("config.json", "{", r"config\.json of .* cannot be read"),
        ("model.safetensors", "none", "weights of .* cannot be read"),
        ("tokenizer.json", "{}", "tokenizer of .* cannot be read"),
    ],
)
def test_a_damaged_file_is_told_in_a_sentence(
    file: str, text: str, says: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path, ["toxic"])
    (tmp_path / file).write_text(text)
    with pytest.raises(LmmsteerError, match=says):
        ToxicityModel(folder, kind="cpu")


def test_code_in_the_folder_is_never_run(tmp_path: Path) -> None:
    folder = saved(tmp_path, ["toxic"])
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(LmmsteerError, match="cannot be read"):
        ToxicityModel(folder, kind="cpu")
    assert not (tmp_path / "ran").exists()


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LmmsteerError, match="no trained text classifier"):
        ToxicityModel(saved(tmp_path, ["toxic"], kind=BertModel), kind="cpu")


def test_a_regression_gives_no_probability(tmp_path: Path) -> None:
    with pytest.raises(LmmsteerError, match="regression"):
        ToxicityModel(saved(tmp_path, ["toxic"], problem_type="regression"), kind="cpu")


def test_a_tokenizer_without_padding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LmmsteerError, match="two texts at once") as refused:
        ToxicityModel(saved(tmp_path, ["toxic"], pad=False), kind="cpu")
    assert "pad_token" in refused.value.mend


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"folder": "nowhere"}, "analysis.toxicity=nowhere is not a folder"),
        ({"batch": 0}, "analysis.toxicity_batch=0"),
        ({"kind": "tpu"}, "analysis.toxicity_device=tpu"),
    ],
)
def test_other_keys_that_cannot_be_are_refused(
    keys: dict[str, Any], says: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path, ["toxic"])
    with pytest.raises(LmmsteerError, match=says):
        ToxicityModel(**{"folder": folder, "kind": "cpu", **keys})
