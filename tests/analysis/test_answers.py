from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import analysis
from analysis import Analysis, answers
from analysis.frame import Output
from analysis.sums import Sums, exact
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import RESPONSES, Request
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet

NAMES = ["mentions", "sentiment", "occupation", "vqa", "health", "competency", "direct", "toxicity"]
SETTINGS = Analysis(bootstrap=20, permutations=20, direct="keywords", by="gender")


class Length:
    """The more is said, the more toxic it is."""

    @property
    def about(self) -> dict[str, Any]:
        return {"classifier": "length"}

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        return [1 / (1 + len(text)) for text in texts]


def scored(
    store: LocalStore, rows: int, monkeypatch: pytest.MonkeyPatch, **keys: object
) -> dict[str, pl.DataFrame]:
    """Every file of all analyses of batches of so many rows."""
    monkeypatch.setattr(answers.batches, "__defaults__", (rows,))
    settings = Analysis(**(vars(SETTINGS) | keys))
    paths = analysis.run(store, NAMES, settings, quiet, Length())
    return {path: pl.read_parquet(store.folder / path) for path in paths}


def spread_out(folder: Path) -> None:
    """The rows of every cell in another order, so that no picture's rows stand together."""
    for cell in folder.glob("responses/*/*/*/*"):
        parts = sorted(cell.glob("*.parquet"))
        frame = pl.concat([pl.read_parquet(part) for part in parts])
        frame = frame.sample(fraction=1.0, shuffle=True, seed=3)
        for number, part in enumerate(parts):
            frame[number * 24 : (number + 1) * 24].write_parquet(part)


@pytest.mark.parametrize("cluster", ["image_id", "group_id"])
@pytest.mark.parametrize("rows", [1, 7])
def test_a_cell_in_many_batches_has_the_tables_of_a_cell_in_one(
    store: LocalStore, rows: int, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.sweep(store.folder, pictures=12, seeds=1)
    one = scored(store, 10_000, monkeypatch, cluster=cluster)
    many = scored(store, rows, monkeypatch, cluster=cluster)
    assert list(many) == list(one)
    assert "scores/sentiment.rows.parquet" in one
    for path, frame in one.items():
        assert many[path].equals(frame), path


def test_pictures_whose_rows_stand_apart_are_not_divided_between_batches(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.sweep(store.folder, pictures=12, seeds=1)
    spread_out(store.folder)
    one = scored(store, 10_000, monkeypatch)
    many = scored(store, 12, monkeypatch)
    for path, frame in one.items():
        keys = [name for name in ("method", "attribute", "row_id") if name in frame.columns]
        alike = (frame, many[path])
        if path.endswith(".rows.parquet"):
            alike = tuple(some.sort(keys) for some in alike)
        assert alike[1].equals(alike[0]), path


def test_batches_hold_whole_pictures_and_no_more_rows_than_asked_for_and_a_picture(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest(build.people(20)).cell("unsteered", "none", build.story({}))
    made = Output(store)
    seen = [set(some.frame["image_id"]) for some in answers.batches(made, made.cells[0], 5)]
    assert len(seen) > 3
    assert sum(map(len, seen)) == len(set().union(*seen)) == 20


def test_coverage_failures_and_labels_are_the_cells_in_every_batch(
    store: LocalStore, output: build.Output
) -> None:
    def answer(row: Request, _: random.Random) -> str | None:
        return None if row.image_id == "p000" else "A person."

    output.manifest(build.people(20)).cell("unsteered", "none", answer, parts=1)
    made = Output(store)
    seen = list(answers.batches(made, made.cells[0], 5))
    assert {some.failed for some in seen} == {2}
    assert {some.coverage for some in seen} == {24 / 40}
    assert {some.labelled("gender") for some in seen} == {True}
    assert {some.labelled("race") for some in seen} == {False}


def test_a_row_answered_twice_in_different_batches_is_refused(
    store: LocalStore, output: build.Output
) -> None:
    cell = output.manifest(build.people(20)).cell("unsteered", "none", build.story({}))
    part = store.folder / cell.folder / "part-00000.parquet"
    shutil.copy(part, part.with_name("part-00009.parquet"))
    made = Output(store)
    with pytest.raises(LmmsteerError, match="twice"):
        list(answers.batches(made, made.cells[0], 5))


def test_labels_are_found_where_parts_are_not_the_manifests(
    store: LocalStore, output: build.Output
) -> None:
    cell = output.manifest(build.people(20)).cell("unsteered", "none", build.story({}))
    parts = sorted((store.folder / cell.folder).glob("*.parquet"))
    pl.concat([pl.read_parquet(part) for part in parts]).write_parquet(parts[0])
    for part in parts[1:]:
        part.unlink()
    made = Output(store)
    seen = list(answers.batches(made, made.cells[0], 5))
    assert not any(some.frame["gender"].is_null().any() for some in seen)
    assert {some.coverage for some in seen} == {1.0}


def test_a_cell_without_a_row_is_one_empty_batch(store: LocalStore, output: build.Output) -> None:
    output.manifest(build.people(2))
    cell = store.folder / "responses/model=m/method=unsteered/attribute=none/dataset=people"
    build.write_part(cell / "part-00000.parquet", [], RESPONSES)
    made = Output(store)
    assert [len(some.frame) for some in answers.batches(made, made.cells[0])] == [0]


def test_sums_are_the_same_in_any_order() -> None:
    chance = random.Random(0)
    values = [chance.uniform(-1, 1) for _ in range(4000)]
    whole = pl.DataFrame({"cluster": ["a", "b"] * 2000, "value": values})
    one, many = Sums("cluster"), Sums("cluster")
    one.add(whole.group_by("cluster").agg(exact(pl.col("value"))))
    for some in whole.sample(fraction=1.0, shuffle=True, seed=1).iter_slices(7):
        many.add(some.group_by("cluster").agg(exact(pl.col("value"))))
    assert many.total().equals(one.total())
    assert one.total()["value"].sum() == pytest.approx(sum(values), abs=4000 * 2**-41)
