"""The analysis that docs/add-an-analysis.md writes down, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analysis import Analysis
from analysis.frame import Answers, CellFiles
from analysis.stats import Bootstrap
from lmmsteer.schema import Cell

PAGE = Path(__file__).parents[2] / "docs/add-an-analysis.md"


def answers(method: str, texts: list[str]) -> Answers:
    frame = pl.DataFrame(
        [(f"r{i}", f"p{i // 2}", text) for i, text in enumerate(texts)],
        schema=["row_id", "image_id", "text"],
        orient="row",
    )
    return Answers(CellFiles(Cell("m", method, "none", "d"), ()), frame, 0, 1.0)


def test_the_analysis_of_the_page_counts_what_it_says() -> None:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    room: dict[str, Any] = {}
    exec(found[1], room)
    measure = room["Hedges"]([], Analysis(), Bootstrap(20))
    measure.add(answers("unsteered", ["It may rain.", "A man.", "Perhaps a may tree.", "Maybe."]))
    measure.add(answers("prompt", ["A man.", "A man.", "It seems red.", "A man."]))
    values = {(s.cell.method, s.metric): s.interval.value for s in measure.scores()}
    assert values["unsteered", "hedges_per_1k"] == pytest.approx(500)
    assert values["prompt", "hedges_per_1k"] == pytest.approx(250)
    assert values["prompt", "change_percent"] == pytest.approx(-50)
    assert len(measure.comparables()) == 2
