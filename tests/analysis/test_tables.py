from __future__ import annotations

import polars as pl
import pytest

from analysis import contrasts, render, tables
from analysis.comparisons import SCHEMA as COMPARISONS
from analysis.scores import SCHEMA
from analysis.tables import Table


def long(*rows: tuple) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def score(method: str, attribute: str, metric: str, value: float, *ends: float, group: str = ""):
    low, high = ends or (None, None)
    return (
        "llava",
        method,
        attribute,
        "facet",
        metric,
        group or None,
        value,
        low,
        high,
        200,
        0.9996,
    )


MENTIONS = long(
    score("unsteered", "gender", "per_1k", 439, 400, 480),
    score("unsteered", "age", "per_1k", 232.4, 200, 260),
    score("steered", "gender", "per_1k", 282, 250, 310),
    score("steered", "gender", "change_percent", -35.76, -42.1, -28.4),
    score("random", "gender", "per_1k", 441.0, 401, 482),
    score("random", "gender", "change_percent", 0.4, -0.3, 1.2),
)
OCCUPATION = long(
    score("unsteered", "none", "mentions", 850, 800, 900),
    score("steered", "gender", "mentions", 820, 770, 860),
    score("steered", "gender", "change_percent", -3.53, -6.0, -1.1),
    score("random", "none", "change_percent", 0.04, -1.0, 1.0),
)
SENTIMENT = long(
    *(
        score("unsteered", "none", metric, value)
        for metric, value in (("variance", 57.6), ("range", 20), ("negative_per_1k", 91.4))
    ),
    score("unsteered", "none", "negative_per_1k", 101, 90, 112, group="Asian"),
)


def test_the_headline_sets_every_method_beside_unsteered_for_each_attribute() -> None:
    (table,) = tables.headline(MENTIONS, OCCUPATION)
    assert table.rows == (
        ("age", "unsteered", "232 [200, 260]", "–", "–", "200", "99.9%"),
        ("gender", "unsteered", "439 [400, 480]", "–", "–", "200", "99.9%"),
        ("gender", "steered", "282 [250, 310]", "−36% [−42, −28]", "−4% [−6, −1]", "200", "99.9%"),
        ("gender", "random", "441 [401, 482]", "0% [0, +1]", "0% [−1, +1]", "200", "99.9%"),
    )
    assert table.strong == {2}


def test_table_1_has_a_column_for_each_attribute() -> None:
    table = tables.table_1(MENTIONS)
    assert table.columns == ("model", "method", "gender", "age", "rows", "coverage")
    assert table.rows == (
        ("llava", "unsteered", "439", "232", "200", "99.9%"),
        ("llava", "steered", "282", "–", "200", "99.9%"),
        ("llava", "random", "441", "–", "200", "99.9%"),
    )


def test_table_2_shows_variance_and_range() -> None:
    (row,) = tables.table_2(SENTIMENT).rows
    assert row == ("llava", "unsteered", "none", "facet", "57.6", "20", "91", "200")
    assert tables.groups(SENTIMENT).columns[-1] == "Asian"


def test_table_3_shows_changes_of_occupation_mentions_without_the_baseline() -> None:
    table = tables.table_3(OCCUPATION)
    assert table.columns == ("model", "method", "gender", "none", "rows", "coverage")
    assert table.rows == (
        ("llava", "steered", "−3.53%", "–", "200", "99.9%"),
        ("llava", "random", "–", "+0.04%", "200", "99.9%"),
    )


def test_tables_without_scores_are_left_out() -> None:
    assert tables.build({}) == []
    titles = [table.title for table in tables.build({"mentions": MENTIONS})]
    assert titles == [
        "Mentions by method: llava on facet",
        "Table 1. Mentions of protected attributes per 1k answers",
    ]


GRID = Table("A & B", ("name", "x|y"), (("a_b", "50%"), ("c", "<1")), "100% of it.", 1)


def test_markdown_is_a_pipe_table_with_its_pipes_escaped() -> None:
    assert render.markdown(GRID) == (
        "## A & B\n\n| name | x\\|y |\n| --- | ---: |\n| a_b | 50% |\n| c | <1 |\n\n100% of it.\n"
    )


def test_latex_escapes_what_tex_would_read_and_uses_booktabs() -> None:
    text = render.latex(GRID)
    assert r"a\_b & 50\% \\" in text
    assert r"c & $<$1 \\" in text
    assert r"\begin{tabular}{lr}" in text
    assert r"\caption{A \& B. 100\% of it.}" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]


@pytest.mark.parametrize("letter", list("\\{}$#^~&%_"))
def test_no_special_letter_of_tex_stays_bare(letter: str) -> None:
    table = Table("t", ("a",), ((letter,),))
    line = render.latex(table).split("\\midrule\n")[1].split("\n")[0]
    assert line.removesuffix(r" \\") != letter


def test_plain_text_lines_up_and_leaves_out_repeated_keys() -> None:
    table = Table("T", ("a", "b", "n"), (("x", "p", "1"), ("x", "q", "200")), keys=2)
    assert render.plain(table).splitlines() == [
        "T",
        "",
        "a  b    n",
        "-  -  ---",
        "x  p    1",
        "   q  200",
    ]


def test_fairness_and_utility_stand_in_one_line_for_each_method() -> None:
    vqa = long(score("steered", "gender", "MR_C", 4.25, 3.0, 5.5))
    found = contrasts.trade_off({"mentions": MENTIONS, "occupation": OCCUPATION, "vqa": vqa})
    lines = {row[2:4]: row for row in found.rows}
    assert next(iter(lines)) == ("age", "unsteered")
    steered = lines["gender", "steered"]
    assert steered[4] == "−36% [−42, −28]"
    assert steered[6] == "4.2 [3.0, 5.5]"
    assert steered[8].startswith("−4%")
    assert steered[9:] == ("200", "99.9%")
    assert lines["gender", "random"][8].startswith("0%")  # Of its cell without an attribute.


def test_tested_differences_are_those_from_unsteered() -> None:
    base = {"model": "llava", "dataset": "facet", "attribute": "body_type", "metric": "per_1k"}
    ends = {"difference": -157.2, "low": -190.0, "high": -120.4, "clusters": 1200}
    tested = {"p": 0.0005, "p_adjusted": 0.02, "effect": -0.61}
    frame = pl.DataFrame(
        [
            {**base, "method": "steered", "against": "unsteered", **ends, **tested},
            {**base, "method": "steered", "against": "random", **ends, **tested},
        ],
        schema=COMPARISONS,
    )
    (row,) = contrasts.differences({"mentions": frame}, "holm").rows
    assert row[2:5] == ("body type", "steered", "mentions: per 1k")
    assert row[5:] == ("−157.2 [−190.0, −120.4]", "<0.001", "0.020", "−0.61", "1,200")
