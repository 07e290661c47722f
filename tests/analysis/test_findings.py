from __future__ import annotations

import polars as pl

from analysis import findings, measured, plot_groups

COLUMNS = ("method", "attribute", "metric", "value", "low", "high")


def scores(*rows: tuple, model: str = "m", group: str | None = None) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=COLUMNS, orient="row", infer_schema_length=None)
    return frame.with_columns(
        model=pl.lit(model),
        dataset=pl.lit("d"),
        group=pl.lit(group, pl.String),
        n=pl.lit(50),
        coverage=pl.lit(1.0),
    ).cast({"value": pl.Float64, "low": pl.Float64, "high": pl.Float64})


def change(method: str, attribute: str, value: float, half: float = 5) -> tuple:
    return (method, attribute, "change_percent", value, value - half, value + half)


def told(*rows: tuple, occupation: pl.DataFrame | None = None) -> list[tuple[str, str]]:
    mentions = scores(*rows)
    (story,) = findings.story(findings.findings(mentions, occupation), mentions)
    return story.sentences


def test_the_strongest_method_is_told_first_and_in_full() -> None:
    cost = scores(("strong", "none", "change_percent", -1.2, -3.0, 1.0))
    said = told(
        ("unsteered", "age", "per_1k", 595.4, 570.0, 620.0),
        ("unsteered", "skin_tone", "per_1k", 1250.0, 1200.0, 1300.0),
        change("weak", "age", -10),
        change("weak", "skin_tone", -20),
        change("strong", "age", -85),
        change("strong", "skin_tone", -60),
        occupation=cost,
    )
    assert said == [
        (
            "Unsteered",
            "answers mention what nobody asked for. Per 1,000 of them:"
            " skin tone 1,250 and age 595 mentions.",
        ),
        (
            "strong",
            "lowers mentions most: age by 85% and skin tone by 60%."
            " Answers that name the occupation change by −1%.",
        ),
        ("weak", "lowers them by 10% to 20%."),
    ]


def test_what_is_not_clear_of_zero_is_not_told_as_a_change() -> None:
    said = told(
        change("best", "age", -40), change("control", "age", -3), change("worse", "age", 30)
    )
    assert said == [
        ("best", "lowers mentions most: age by 40%."),
        ("control", "lowers none."),
        ("worse", "lowers none, and raises age by 30%."),
    ]


def test_no_method_lowers_anything() -> None:
    assert told(change("a", "age", 2)) == [("a", "lowers none.")]


def test_more_methods_than_four_are_named_together() -> None:
    said = told(*(change(f"m{i}", "age", -90 + 10 * i) for i in range(6)))
    assert said[-1] == ("m4 and m5", "come after them, in the cards below.")


def test_what_is_never_mentioned_is_not_told_as_mentioned() -> None:
    said = told(
        ("unsteered", "age", "per_1k", 595.0, 570.0, 620.0),
        ("unsteered", "race", "per_1k", 0.0, 0.0, 0.0),
        change("a", "age", -50),
    )
    assert said[0][1].endswith("Per 1,000 of them: age 595 mentions.")
    silent = told(("unsteered", "race", "per_1k", 0.0, 0.0, 0.0), change("a", "age", -50))
    assert silent[0][0] == "a"


def test_words_are_listed_as_people_do() -> None:
    assert findings.listed([]) == ""
    assert findings.listed(["a"]) == "a"
    assert findings.listed(["a", "b", "c"]) == "a, b and c"


def test_a_measure_is_a_table_with_a_line_for_each_cell() -> None:
    cost = scores(
        ("unsteered", "none", "seconds_per_1k", 12.345, 12.0, 13.0),
        ("unsteered", "none", "peak_memory", 0.0, None, None),
        ("steered", "age", "seconds_per_1k", 1930.4, None, None),
        ("steered", "age", "seconds_per_1k_change", 9.0, 8.0, 10.0),
    )
    (table,) = measured.build({"cost": cost, "mentions": cost})
    assert table.columns[4:] == ("seconds per 1k", "peak memory", "rows", "coverage")
    assert table.rows == (
        ("m", "d", "none", "unsteered", "12.3 [12.0, 13.0]", "0", "50", "100.0%"),
        ("m", "d", "age", "steered", "1,930", "–", "50", "100.0%"),
    )


def test_figures_have_three_digits() -> None:
    values = (0.23456, 1.0, 99.96, 1234.5, -0.5, 0.00012)
    said = [measured.significant(value) for value in values]
    assert said == ["0.235", "1.00", "100.0", "1,234", "−0.500", "1.20e−04"]


def test_the_plot_of_groups_has_a_point_for_each_cell_and_group() -> None:
    rows = ("unsteered", "none", "negative_per_1k", 100.0, 80.0, 120.0)
    lower = ("steered", "skin_tone", "negative_per_1k", 40.0, None, None)
    frame = pl.concat(
        [
            scores(rows, lower, group="light_skin"),
            scores((*rows[:3], 250.0, 200.0, 300.0), (*lower[:3], 60.0, None, None), group="dark"),
            scores(rows),
        ]
    )
    assert len(plot_groups.points(frame)) == 4
    assert plot_groups.summary(frame) == (
        "Negative answers per 1k by group, the fewest to the most."
        " unsteered: light skin 100 to dark 250; steered, skin tone: light skin 40 to dark 60."
    )
    chart = plot_groups.chart(frame)
    assert chart is not None
    (values,) = chart["datasets"].values()
    assert {(row["cell"], row["group"]) for row in values} == {
        (cell, group)
        for cell in ("unsteered", "steered, skin tone")
        for group in ("light skin", "dark")
    }
    assert plot_groups.chart(scores(rows)) is None
