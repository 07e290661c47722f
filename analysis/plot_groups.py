"""The plot of sentiment by group: negative answers per 1k, a line a cell, a point a group."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from analysis.plot import COLORS, Chart, styled
from analysis.tables import spoken

STEP = 11  # pixels from a group's point to the next
KEYS = ["model", "dataset", "method", "attribute"]


def points(sentiment: pl.DataFrame) -> pl.DataFrame:
    """Negative answers per 1k of each cell and group, with their 95% intervals."""
    rows = sentiment.filter(pl.col("metric") == "negative_per_1k", pl.col("group").is_not_null())
    return rows.drop_nulls("value").select(*KEYS, "group", "value", "low", "high")


def chart(sentiment: pl.DataFrame) -> Chart | None:
    """The plot, or None where there are no groups."""
    found = points(sentiment)
    if found.is_empty():
        return None
    named = pl.col("attribute").str.replace_all("_", " ")
    steered = pl.when(pl.col("attribute") == "none").then(pl.lit("")).otherwise(", " + named)
    data = found.with_columns(
        cell=pl.concat_str("method", steered),
        group=pl.col("group").str.replace_all("_", " "),
        place=pl.concat_str("model", pl.lit(" on "), "dataset"),
    )
    layers = _layers(data)
    many = data["place"].n_unique() > 1
    return styled(layers.facet(alt.Facet("place:N", title=None), columns=1) if many else layers)


def summary(sentiment: pl.DataFrame) -> str:
    """The same in words, for those who cannot see the plot."""
    said = [
        f"{row['method']}{'' if row['attribute'] == 'none' else ', ' + spoken(row['attribute'])}:"
        f" {spoken(row['least'])} {row['low']:.0f} to {spoken(row['most'])} {row['high']:.0f}"
        for row in points(sentiment)
        .group_by(KEYS, maintain_order=True)
        .agg(
            least=pl.col("group").sort_by("value").first(),
            most=pl.col("group").sort_by("value").last(),
            low=pl.col("value").min(),
            high=pl.col("value").max(),
        )
        .iter_rows(named=True)
    ]
    return "Negative answers per 1k by group, the fewest to the most. " + "; ".join(said) + "."


def _layers(data: pl.DataFrame) -> Any:
    groups = sorted(set(data["group"]))
    color = alt.Color(
        "group:N",
        scale=alt.Scale(domain=groups, range=COLORS),
        legend=alt.Legend(title=None, symbolOpacity=1, orient="top", columns=4, columnPadding=24),
    )
    cells = data["cell"].unique(maintain_order=True).to_list()
    y = alt.Y("cell:N", sort=cells, title=None, axis=alt.Axis(labelLimit=260, grid=True))
    base = alt.Chart(data).encode(y=y, yOffset=alt.YOffset("group:N", sort=groups), color=color)
    title = "negative answers per 1k"
    scale = alt.Scale(zero=False, nice=True, padding=12)
    ends = base.mark_rule(strokeWidth=1.5, opacity=0.55).encode(
        x=alt.X("low:Q", title=title, scale=scale), x2="high:Q"
    )
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=alt.X("value:Q", title=title, scale=scale)
    )
    height = max(60, len(cells) * (len(groups) * STEP + 14))
    return alt.layer(ends, dots).properties(width=420, height=height)
