from __future__ import annotations

import polars as pl
import pytest

import analysis
from analysis import Analysis, scores
from analysis.frame import Answers, CellFiles
from analysis.health import Health, looped
from analysis.stats import Bootstrap
from analysis.words import split
from lmmsteer.schema import Cell
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet

TEXTS = {
    "a": ["the cat sat on the cat sat on the mat", "The dog."],
    "b": ["", "no no no"],
    "c": ["one two three four five", "one two three four five"],
}


def answers(
    method: str, texts: dict[str, list[str]], tokens: int = 5, reason: str = "eos"
) -> Answers:
    frame = pl.DataFrame(
        [
            (f"{image}{i}", image, "describe", i, text, tokens, reason)
            for image, said in texts.items()
            for i, text in enumerate(said)
        ],
        schema=["row_id", "image_id", "prompt_id", "seed", "text", "new_tokens", "finish_reason"],
        orient="row",
    )
    return Answers(CellFiles(Cell("m", method, "none", "d"), ()), frame, 0, 1.0)


def values(measure: Health, method: str = "unsteered") -> dict[str, float | None]:
    return {s.metric: s.interval.value for s in measure.scores() if s.cell.method == method}


def grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = split(text)
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def expected_distinct(n: int) -> float:
    shares = []
    for said in TEXTS.values():
        pool = [gram for text in said for gram in grams(text, n)]
        if pool:
            shares.append(len(set(pool)) / len(pool))
    return sum(shares) / len(shares)


def test_every_figure_is_that_of_a_plain_count() -> None:
    measure = Health([], Analysis(), Bootstrap(20))
    measure.add(answers("unsteered", TEXTS))
    found = values(measure)
    assert found["words"] == pytest.approx((10 + 2 + 0 + 3 + 5 + 5) / 6)
    assert found["tokens"] == 5
    for n in (1, 2, 3):
        assert found[f"distinct_{n}"] == pytest.approx(expected_distinct(n))
    # 4-grams of "the cat sat on the cat sat on the mat": 7, of them "the cat sat on" and
    # "cat sat on the" come twice: 5 distinct; the two answers of five words repeat nothing.
    assert found["repeated"] == pytest.approx(100 * (2 / 7) / 3)
    assert found["looped"] == pytest.approx(100 / 6)
    assert found["empty"] == pytest.approx(100 / 6)
    assert found["truncated"] == 0


def test_pieces_of_a_cell_make_the_same_scores_as_the_whole() -> None:
    whole, pieces = (Health([], Analysis(), Bootstrap(20)) for _ in range(2))
    whole.add(answers("unsteered", TEXTS))
    for image, said in TEXTS.items():
        pieces.add(answers("unsteered", {image: said}))
    assert values(pieces) == pytest.approx(values(whole))


def test_changes_are_differences_over_the_pictures_of_both_cells() -> None:
    measure = Health([], Analysis(), Bootstrap(20))
    measure.add(answers("unsteered", {"a": ["one two"], "b": ["one two three four"]}))
    measure.add(answers("prompt", {"a": ["one"], "z": ["x " * 50]}, 9, "length"))
    found = values(measure, "prompt")
    assert found["words_change"] == pytest.approx(1 - 2)
    assert found["tokens_change"] == pytest.approx(9 - 5)
    assert found["truncated_change"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("ok ok ok", True),
        ("ok ok", False),
        ("it is a man it is a man it is a man", True),
        ("it is a man it is a man it is", False),
        ("a b a b a b c", False),
        ("", False),
    ],
)
def test_a_loop_is_a_run_three_times_over_at_the_end(text: str, loop: bool) -> None:
    assert pl.DataFrame({"said": [split(text)]}).select(looped()).item() is loop


def test_it_runs_over_an_output_folder(store: LocalStore, output: build.Output) -> None:
    build.sweep(output.root, pictures=8, seeds=1)
    assert analysis.run(store, ["health"], Analysis(bootstrap=20), quiet)
    found = scores.read(store, "health")
    assert found is not None
    assert {"words", "distinct_2", "words_change", "empty"} <= set(found[0]["metric"])
