from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

import analysis
from analysis import Analysis, scores
from analysis.frame import Output
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import RESPONSES
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet

PLAIN = build.story({"gender": 0.5})


def test_answers_come_with_labels_and_without_failed_rows(
    store: LocalStore, output: build.Output
) -> None:
    rows = build.people(6)
    output.manifest(rows)
    output.cell("unsteered", "none", lambda r, g: None if r.image_id == "p002" else PLAIN(r, g))
    made = Output(store)
    answers = made.load(made.cells[0])
    assert (len(answers.frame), answers.failed, answers.coverage) == (10, 2, 1.0)
    labels = {row.row_id: (row.gender, row.occupation, row.prompt) for row in rows}
    for row_id, *found in answers.frame.select("row_id", "gender", "occupation", "prompt").rows():
        assert tuple(found) == labels[row_id]


def test_unsteered_cells_come_first_and_names_may_hold_equals_signs(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest(build.people(2))
    output.cell("ablation+alpha-0.5", "gender", PLAIN)
    output.cell("unsteered", "none", PLAIN, model="a=b")
    output.cell("unsteered", "none", PLAIN)
    names = [(files.cell.model, files.cell.method) for files in Output(store).cells]
    assert names == [("a=b", "unsteered"), ("tiny", "unsteered"), ("tiny", "ablation+alpha-0.5")]


def test_what_is_not_finished_is_refused_with_the_command_that_finishes_it(
    store: LocalStore, output: build.Output
) -> None:
    output.part_rows = 4
    output.manifest(build.people(6))
    output.cell("unsteered", "none", PLAIN)
    output.cell("steered", "gender", PLAIN, parts=2)
    output.cell("steered", "age", PLAIN, parts=0)
    with pytest.raises(LmmsteerError) as refused:
        analysis.run(store, ["all"], Analysis(), quiet)
    message = str(refused.value)
    assert "2 of 3 cells" in message
    assert "steered gender people (8 of 12 rows)" in message
    assert "steered age people (0 of 12 rows)" in message
    assert f"lmmsteer resume out={store.root}" in message
    assert not (store.folder / "scores").exists()


def test_partial_outputs_are_measured_on_request_with_their_coverage(
    store: LocalStore, output: build.Output
) -> None:
    output.part_rows = 4
    output.manifest(build.people(6))
    output.cell("unsteered", "none", PLAIN)
    output.cell("steered", "gender", PLAIN, parts=2)
    output.cell("steered", "age", PLAIN, parts=0)
    said: list[str] = []
    analysis.run(store, ["mentions"], Analysis(allow_partial=True, bootstrap=50), said.append)
    found = scores.read(store, "mentions")
    assert found is not None
    partial = found[0].filter(method="steered")
    assert partial["coverage"].to_list() == pytest.approx([2 / 3, 2 / 3])
    assert partial["n"].to_list() == [8, 8]
    # The same answers to the same pictures: no change, although unsteered went on to others.
    assert partial.filter(metric="change_percent")["value"].to_list() == [0.0]
    assert any("partial, 66.7%" in note for note in said)
    assert any("steered age people: no answers yet" in note for note in said)


def test_answers_of_others_are_measured_and_marked_unverified(
    store: LocalStore, output: build.Output
) -> None:
    output.rows = build.people(4)
    output.cell("unsteered", "none", PLAIN, ours=False)
    said: list[str] = []
    analysis.run(store, ["all"], Analysis(bootstrap=50), said.append)
    found = scores.read(store, "mentions")
    assert found is not None
    table, about = found
    assert table["coverage"].is_null().all()
    assert table["n"].unique().to_list() == [8]
    assert [cell["verified"] for cell in about["cells"]] == [False]
    assert any("unverified" in note for note in said)


def test_temporary_and_foreign_files_are_not_read(store: LocalStore, output: build.Output) -> None:
    cell = output.manifest(build.people(2)).cell("unsteered", "none", PLAIN)
    folder = store.folder / cell.folder
    (folder / ".part-00001.parquet.x.tmp").write_text("half")
    (folder / "notes.txt").write_text("mine")
    (store.folder / "responses/readme.md").write_text("mine")
    assert [len(files.parts) for files in Output(store).cells] == [1]


def test_a_row_answered_twice_is_refused(store: LocalStore, output: build.Output) -> None:
    cell = output.manifest(build.people(2)).cell("unsteered", "none", PLAIN)
    part = store.folder / cell.folder / "part-00000.parquet"
    shutil.copy(part, part.with_name("part-00001.parquet"))
    with pytest.raises(LmmsteerError, match="twice"):
        analysis.run(store, ["mentions"], Analysis(), quiet)


def test_a_damaged_part_is_named(store: LocalStore, output: build.Output) -> None:
    cell = output.manifest(build.people(2)).cell("unsteered", "none", PLAIN)
    part = store.folder / cell.folder / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(LmmsteerError, match=r"part-00000.parquet is damaged"):
        analysis.run(store, ["mentions"], Analysis(), quiet)


def test_a_part_with_other_rows_than_its_footer_says_is_refused(
    store: LocalStore, output: build.Output
) -> None:
    cell = output.manifest(build.people(2)).cell("unsteered", "none", PLAIN)
    part = store.folder / cell.folder / "part-00000.parquet"
    meta = {"lmmsteer.rows": "5", "lmmsteer.digest": "0"}
    pl.read_parquet(part).head(3).write_parquet(part, metadata=meta)
    with pytest.raises(LmmsteerError, match="3 rows where its footer says 5"):
        analysis.run(store, ["mentions"], Analysis(), quiet)


def test_a_missing_column_is_named(store: LocalStore, output: build.Output) -> None:
    cell = output.manifest(build.people(2)).cell("unsteered", "none", PLAIN, ours=False)
    part = store.folder / cell.folder / "part-00000.parquet"
    names = [name for name in RESPONSES.names if name != "text"]
    pl.read_parquet(part, columns=names).write_parquet(part)
    with pytest.raises(LmmsteerError, match="text"):
        analysis.run(store, ["mentions"], Analysis(), quiet)


def test_an_empty_output_is_refused_with_the_command_that_fills_it(tmp_path: Path) -> None:
    with pytest.raises(LmmsteerError, match="lmmsteer generate"):
        analysis.run(LocalStore(tmp_path), ["all"], Analysis(), quiet)


def test_an_unknown_analysis_is_refused_by_name(store: LocalStore) -> None:
    with pytest.raises(LmmsteerError, match="horoscope"):
        analysis.run(store, ["horoscope"], Analysis(), quiet)


def test_score_tables_have_the_contracts_columns(store: LocalStore, output: build.Output) -> None:
    build.sweep(store.folder, pictures=8, seeds=1)
    said: list[str] = []
    paths = analysis.run(store, ["all"], Analysis(bootstrap=50, seed=7), said.append)
    columns = ["model", "method", "attribute", "dataset", "metric", "group"]
    columns += ["value", "low", "high", "n", "coverage"]
    for path in paths:
        if "comparisons" not in path and not path.endswith(".rows.parquet"):
            assert pl.read_parquet(store.folder / path).columns == columns
    assert said == [
        "intervals: 50 bootstrap resamples by image_id; tests: 2000 permutations, holm; seed 7"
    ]


def test_running_again_gives_the_same_scores(store: LocalStore, output: build.Output) -> None:
    build.sweep(store.folder, pictures=8, seeds=1)
    paths = analysis.run(store, ["all"], Analysis(bootstrap=50), quiet)
    before = [store.read_bytes(path) for path in paths]
    assert analysis.run(store, ["all"], Analysis(bootstrap=50), quiet) == paths
    assert [store.read_bytes(path) for path in paths] == before


def test_scores_say_which_parts_they_are_of(store: LocalStore, output: build.Output) -> None:
    output.manifest(build.people(24)).cell("unsteered", "none", build.story({}), parts=1)
    settings = Analysis(bootstrap=10, allow_partial=True)

    def snapshot() -> tuple[int, str]:
        (path, *_) = analysis.run(store, ["sentiment"], settings, quiet)
        about = pl.read_parquet_metadata(store.folder / path)["lmmsteer.analysis"]
        (cell,) = json.loads(about)["cells"]
        return cell["parts"], cell["snapshot"]

    first = snapshot()
    assert first[0] == 1
    assert snapshot() == first
    output.cell("unsteered", "none", build.story({}))
    assert snapshot()[0] > 1
    assert snapshot()[1] != first[1]
