"""The plot of effect against cost: change of mentions over how often the occupation is named.

Plots are made as Vega-Lite specifications (`chart`, a dictionary), and drawn by vl-convert.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl
import vl_convert as vlc

from analysis.frame import BASELINE
from analysis.tables import spoken

INK = "#7a7d85"  # axes and text, readable on white and on near-black
COLORS = ["#e0663b", "#3f8fd6", "#8e6fd1", "#2f9e7d", "#c9972b", "#d1578f", "#6b8e23", "#5b7083"]
KEYS = ["model", "dataset", "method", "attribute"]
Chart = dict[str, Any]


def points(mentions: pl.DataFrame, occupation: pl.DataFrame) -> pl.DataFrame:
    """For each method and attribute: change of mentions (%), occupation named (% of answers).

    unsteered: how often the unsteered answers of the same model and data set name the occupation.
    """
    changes = mentions.filter(pl.col("metric") == "change_percent").drop_nulls("value")
    changes = changes.select(*KEYS, change="value", change_low="low", change_high="high")
    named = occupation.filter(pl.col("metric") == "mentions").drop_nulls("value")
    named = named.select(*KEYS[:3], own="attribute", **_tenth("occupation"))
    level = named.filter(pl.col("method") == BASELINE).unique(KEYS[:2])
    level = level.select(*KEYS[:2], unsteered="occupation")
    both = changes.join(named, on=KEYS[:3], how="inner", maintain_order="left")
    both = both.join(level, on=KEYS[:2], how="left", maintain_order="left")
    same = pl.col("own").is_in(["none"]) | (pl.col("own") == pl.col("attribute"))
    return both.filter(same).drop("own")


def chart(mentions: pl.DataFrame, occupation: pl.DataFrame) -> Chart | None:
    """The plot, or None where no method has both measures."""
    data = points(mentions, occupation)
    if data.is_empty():
        return None
    data = data.with_columns(
        attribute=pl.col("attribute").str.replace_all("_", " "),
        place=pl.concat_str("model", pl.lit(" on "), "dataset"),
    )
    layers = _layers(data)
    many = data["place"].n_unique() > 1
    return styled(layers.facet(alt.Facet("place:N", title=None), columns=1) if many else layers)


def svg(chart: Chart) -> str:
    """The plot as SVG: clear background, ink that is readable on white and on near-black."""
    return vlc.vegalite_to_svg(chart, vl_version=_version())


def png(chart: Chart) -> bytes:
    """The plot as PNG on white, two dots a unit, for slides and documents."""
    white = {**chart, "config": {**chart["config"], "background": "white"}}
    return vlc.vegalite_to_png(white, vl_version=_version(), scale=2)


def summary(mentions: pl.DataFrame, occupation: pl.DataFrame) -> str:
    """The same in words, for those who cannot see the plot."""
    said = [
        f"{row['method']}, {spoken(row['attribute'])}: mentions {row['change']:+.0f}%,"
        f" occupation named in {row['occupation']:.0f}% of answers"
        for row in points(mentions, occupation).iter_rows(named=True)
    ]
    return "Change of mentions against occupation named. " + "; ".join(said) + "."


def _layers(data: pl.DataFrame) -> Any:
    methods = data["method"].unique(maintain_order=True).to_list()
    color = alt.Color(
        "method:N",
        scale=alt.Scale(domain=methods, range=COLORS),
        legend=alt.Legend(
            title="method", symbolOpacity=1, orient="top", columns=3, columnPadding=24
        ),
    )
    x = alt.X(
        "occupation:Q",
        title="answers that name the occupation (%)",
        scale=alt.Scale(zero=False, nice=True, padding=12),
    )
    y = alt.Y("change:Q", title="mentions against unsteered (%)")
    base = alt.Chart(data).encode(color=color)
    across = base.mark_rule(strokeWidth=1.5, opacity=0.55).encode(
        x=alt.X("occupation_low:Q"), x2="occupation_high:Q", y=y
    )
    down = base.mark_rule(strokeWidth=1.5, opacity=0.55).encode(
        x=x, y=alt.Y("change_low:Q"), y2="change_high:Q"
    )
    dots = base.mark_point(filled=True, size=110, opacity=1).encode(x=x, y=y, shape=_shape())
    zero = _level(data, "change", y=alt.datum(0))
    unsteered = _level(data, "unsteered", x=alt.X("unsteered_level:Q", scale=x["scale"]))
    layers: list[Any] = [zero, unsteered, across, down, dots]
    return alt.layer(*layers).properties(width=420, height=300)


def _shape() -> alt.Shape:
    legend = alt.Legend(
        title="attribute", symbolFillColor=INK, orient="bottom", columns=4, columnPadding=24
    )
    return alt.Shape("attribute:N", legend=legend)


def _level(data: pl.DataFrame, column: str, **encoding: Any) -> alt.Chart:
    """One dashed line for each place."""
    level: Any = {f"{column}_level": f"min({column})"}
    lines = alt.Chart(data).transform_aggregate(groupby=["place"], **level)
    return lines.mark_rule(strokeDash=[4, 4], color=INK).encode(**encoding)


def styled(chart: Any) -> Chart:
    """With our axes, fonts and colours."""
    axis = {"labelColor": INK, "titleColor": INK, "domainColor": INK, "tickColor": INK}
    font = {"labelFontSize": 13, "titleFontSize": 13, "titleFontWeight": "normal"}
    chart = (
        chart.configure(background="transparent", font="sans-serif")
        .configure_axis(**axis, **font, gridColor=INK, gridOpacity=0.18)
        .configure_legend(labelColor=INK, titleColor=INK, symbolStrokeColor=INK, **font)
        .configure_view(stroke=None)
        .configure_header(labelColor=INK, labelFontSize=14)
    )
    return chart.to_dict()


def _tenth(name: str) -> dict[str, pl.Expr]:
    ends = {name: "value", f"{name}_low": "low", f"{name}_high": "high"}
    return {key: pl.col(column) / 10 for key, column in ends.items()}


def _version() -> str:
    major, minor = alt.SCHEMA_VERSION.lstrip("v").split(".")[:2]
    return f"{major}.{minor}"
