from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import analysis
from analysis import Analysis, scores
from analysis.captions.pair import Pair, largest, neutral
from analysis.captions.references import read
from analysis.captions.rouge import RougeL, longest_common, rouge_l
from analysis.words import split
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Request
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.conftest import Command

WORDS = st.lists(st.sampled_from(["a", "man", "is", "on", "the", "horse"]), max_size=12)


def test_rouge_l_is_that_of_a_hand_calculation() -> None:
    answer = ["a", "man", "rides", "a", "brown", "horse"]  # 6 words
    first = ["a", "man", "is", "riding", "a", "horse"]  # 6 words, common: a man a horse
    second = ["brown", "horse"]  # 2 words, both common
    precision, recall = 4 / 6, 2 / 2
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l(answer, [first, second]) == pytest.approx(expected)
    assert rouge_l(answer, [answer]) == pytest.approx(1)
    assert rouge_l(answer, [["dog"]]) == rouge_l([], [first]) == 0


@given(WORDS, WORDS)
def test_the_longest_common_subsequence_is_that_of_the_usual_table(
    first: list[str], second: list[str]
) -> None:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            longer = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else longer
    assert longest_common(first, second) == table[-1][-1]


@given(WORDS.filter(bool), st.lists(WORDS.filter(bool), min_size=1, max_size=4))
def test_rouge_l_is_pycocoevalcaps(answer: list[str], references: list[list[str]]) -> None:
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    theirs = rouge.Rouge().calc_score([" ".join(answer)], [" ".join(r) for r in references])
    assert rouge_l(answer, references) == pytest.approx(theirs)


def test_words_of_gender_are_made_neutral_as_whole_words() -> None:
    text = "A man, a Guy and a lady with a woman's son; men and women. A boy's mango, humanely."
    assert neutral(text) == (
        "A person, a person and a person with a person's child; people and people."
        " A child's mango, humanely."
    )


def test_the_max_rule_takes_the_better_of_both_and_scores_equal_references_once() -> None:
    class Told(RougeL):
        seen: list[int] = []  # noqa: RUF012

        def scores(self, pairs: Any) -> list[float | None]:
            self.seen.append(len(pairs))
            return super().scores(pairs)

    pairs = [Pair("a person", ("a man",)), Pair("a man", ("a man",)), Pair("a dog", ("a dog",))]
    plain, most = largest(Told(), pairs)
    assert plain == [pytest.approx(0.5), pytest.approx(1), pytest.approx(1)]
    assert most == [pytest.approx(1), pytest.approx(1), pytest.approx(1)]
    assert Told.seen == [3, 2]


# p3 has no reference. One prompt and seed, so a row is a picture.
CAPTIONS = {"p0": ["a man rides a horse", "horse"], "p1": ["a woman sits"], "p2": ["two dogs"]}
PLAIN = {"p0": "a man rides", "p1": "a woman sits", "p2": "cats", "p3": "a boat"}
STEERED = {"p0": "a person rides", "p1": "a person sits", "p2": "two dogs", "p3": "a boat"}


def rows(captions: bool = True) -> list[Request]:
    genders = {"p0": "man", "p1": "woman", "p2": None, "p3": "man"}
    return [
        build.row(i, image, gender=genders[image], extra=_extra(image) if captions else {})
        for i, image in enumerate(PLAIN)
    ]


def _extra(image: str) -> dict[str, str]:
    if image not in CAPTIONS:
        return {"split": "test"}
    of = CAPTIONS[image]
    return {"split": "test", "captions": json.dumps(of) if len(of) > 1 else of[0]}


def run(
    store: LocalStore, output: build.Output, captions: bool = True, **keys: Any
) -> tuple[pl.DataFrame, list[str]]:
    output.manifest(rows(captions))
    output.cell("unsteered", "none", lambda row, _: PLAIN[row.image_id])
    output.cell("prompt", "none", lambda row, _: STEERED[row.image_id])
    keys = {"name": "captions", "bootstrap": 20, "caption_metrics": ["rouge_l"], **keys}
    said: list[str] = []
    analysis.run(store, [keys["name"]], Analysis(**keys), said.append)
    found = scores.read(store, "captions")
    assert found is not None
    return found[0], said


def value(frame: pl.DataFrame, method: str, metric: str, group: str | None = None) -> Any:
    here = frame.filter(
        pl.col("group").eq_missing(group), pl.col("method") == method, pl.col("metric") == metric
    )
    return here.select("value", "n").row(0)


def expected(said: dict[str, str], pictures: list[str], max_rule: bool = False) -> float:
    def one(image: str) -> float:
        answer, references = split(said[image]), CAPTIONS[image]
        found = [rouge_l(answer, [split(r) for r in references])]
        if max_rule:
            found.append(rouge_l(answer, [split(neutral(r)) for r in references]))
        return max(found)

    return sum(map(one, pictures)) / len(pictures)


def test_scores_are_means_over_answers_with_a_reference_whole_and_by_group(
    store: LocalStore, output: build.Output
) -> None:
    frame, said = run(store, output, by="gender")
    whole = ["p0", "p1", "p2"]
    for method, texts in (("unsteered", PLAIN), ("prompt", STEERED)):
        plain, most = expected(texts, whole), expected(texts, whole, max_rule=True)
        assert value(frame, method, "rouge_l") == (pytest.approx(plain), 3)
        assert value(frame, method, "max_rouge_l") == (pytest.approx(most), 3)
        assert value(frame, method, "rouge_l", "man") == (pytest.approx(expected(texts, ["p0"])), 1)
    change = expected(STEERED, whole) - expected(PLAIN, whole)
    assert value(frame, "prompt", "rouge_l_change") == (pytest.approx(change), 3)
    assert any("1 of 4 answers are about pictures without a reference" in line for line in said)


def test_rows_without_a_reference_are_there_without_a_score(
    store: LocalStore, output: build.Output
) -> None:
    run(store, output)
    kept, about = scores.read(store, "captions.rows") or (pl.DataFrame(), {})
    here = kept.filter(pl.col("method") == "prompt").sort("image_id")
    assert here["references"].to_list() == [2, 1, 1, None]
    assert here["max_rouge_l"].null_count() == 1
    assert about["captions"]["answers without a reference"] == {
        "tiny unsteered none people": 1,
        "tiny prompt none people": 1,
    }


def written(folder: Path, kind: str) -> Path:
    pairs = [(image, text) for image, texts in CAPTIONS.items() for text in texts]
    path = folder / f"captions.{kind.partition(' ')[0]}"
    flat = [{"image_id": image, "caption": text} for image, text in pairs]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(flat), path)
    elif kind == "csv":
        path.write_text("image_id,caption\n" + "".join(f"{i},{t}\n" for i, t in pairs))
    elif kind == "json":
        path.write_text(json.dumps(flat))
    else:
        images = [{"id": i, "file_name": name} for i, name in enumerate(CAPTIONS)]
        ids = {image["file_name"]: image["id"] for image in images}
        notes = [{"image_id": ids[i], "id": n, "caption": t} for n, (i, t) in enumerate(pairs)]
        path.write_text(json.dumps({"info": {}, "images": images, "annotations": notes}))
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "json", "json of COCO"])
def test_references_of_a_file_are_those_of_the_manifest(
    kind: str, store: LocalStore, output: build.Output, tmp_path: Path
) -> None:
    path = written(tmp_path, kind)
    from_manifest, _ = run(store, output)
    from_file, _ = run(store, output, captions=False, references=str(path))
    assert from_file.equals(from_manifest)
    if kind == "json of COCO":
        assert read(path)["0"] == read(path)["p0"] == tuple(CAPTIONS["p0"])


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("c.txt", "", "none of .parquet, .csv and .json"),
        ("c.csv", "image_id,text\np0,a\n", "line 2 has no column caption"),
        ("c.csv", "image_id,caption\np0,a\np1,...\n", "line 3 has no caption"),
        ("c.csv", "image_id,caption\n,a dog\n", "line 2 has no image_id"),
        ("c.csv", "image_id,caption\n", "holds no caption"),
        ("c.json", "[1]", "no list of objects"),
        ("c.json", '{"images": []}', "has no 'annotations'"),
        ("c.json", '[{"image_id": 1, "caption": 2}]', "item 1 has no caption"),
        ("c.json", "{", "cannot be read"),
        ("c.parquet", "PAR1", "cannot be read"),
        ("none.csv", None, "cannot be read: No such file"),
    ],
)
def test_a_bad_file_of_references_is_told_in_one_sentence(
    name: str, text: str | None, says: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(LmmsteerError, match=says) as error:
        read(tmp_path / name)
    assert "columns image_id and caption" in error.value.mend


def test_all_has_captions_only_where_there_are_references(
    store: LocalStore, output: build.Output, command: Command
) -> None:
    frame, said = run(store, output, name="all", caption_metrics=[], java="no-java")
    assert set(frame["metric"]) == {
        "rouge_l",
        "max_rouge_l",
        "rouge_l_change",
        "max_rouge_l_change",
    }
    assert any("captions: without meteor. analysis.java=no-java is no command" in s for s in said)
    output.manifest(rows(captions=False))
    (output.root / "scores/captions.parquet").unlink()
    line = ["analyze", "analysis.bootstrap=5", f"out={output.root}"]
    code, out, _ = command(*line)
    assert (code, "captions.parquet" in out) == (0, False)
    code, _, err = command(*line, "analysis=captions", "analysis.caption_metrics=[rouge_l]")
    assert (code, "analysis.references=FILE" in err) == (2, True)
    code, _, err = command(*line, "analysis=captions", "analysis.caption_metrics=[bleu]")
    assert (code, "analysis.caption_metrics holds bleu" in err) == (2, True)


def test_a_column_that_holds_no_captions_is_refused(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest([build.row(0, "p0", extra={"captions": "[1, 2]"})])
    output.cell("unsteered", "none", lambda row, _: "a dog")
    settings = Analysis(name="captions", caption_metrics=["rouge_l"])
    with pytest.raises(LmmsteerError, match="captions of p0 in people there is something else"):
        analysis.run(store, ["captions"], settings, lambda _: None)
