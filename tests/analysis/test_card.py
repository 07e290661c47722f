from __future__ import annotations

from pathlib import Path

import polars as pl
import yaml

import analysis
from analysis import Analysis, Report, card, report
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet


def made(store: LocalStore) -> list[str]:
    analysis.run(store, ["mentions"], Analysis(bootstrap=20), quiet)
    return report.write(store, Report(gallery=2))


def head(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])


def test_every_cell_is_a_configuration_whose_files_are_there(store: LocalStore) -> None:
    build.sweep(store.folder, pictures=12, seeds=1)
    assert "README.md" in made(store)
    found = head(store.folder / "README.md")
    names = [config["config_name"] for config in found["configs"]]
    assert len(set(names)) == 7
    assert names[0] == "tiny.unsteered.none.people"
    assert [config.get("default", False) for config in found["configs"]] == [True] + [False] * 6
    rows = [
        len(pl.read_parquet(store.folder / config["data_files"])) for config in found["configs"]
    ]
    assert rows == [24] * 7
    assert found["size_categories"] == ["n<1K"]


def test_a_card_of_somebody_else_is_left_alone(store: LocalStore) -> None:
    build.sweep(store.folder, pictures=12, seeds=1)
    (store.folder / "README.md").write_text("# Mine\n")
    assert "report/README.md" in made(store)
    assert (store.folder / "README.md").read_text() == "# Mine\n"
    assert card.MARK in (store.folder / "report/README.md").read_text(encoding="utf-8")


def test_ours_is_made_anew(store: LocalStore) -> None:
    build.sweep(store.folder, pictures=12, seeds=1)
    made(store)
    first = (store.folder / "README.md").read_text(encoding="utf-8")
    build.Output(store.folder, "others").manifest(build.people(4)).cell(
        "unsteered", "none", build.story({})
    )
    made(store)
    assert (store.folder / "README.md").read_text(encoding="utf-8") != first


def test_one_known_licence_is_named_as_hubs_do_and_others_in_their_own_words() -> None:
    assert card._spdx({"a": "Apache-2.0"}) == {"license": "apache-2.0"}
    assert card._spdx({"a": "MIT", "b": "mine"}) == {
        "license": "other",
        "license_name": "MIT; mine",
    }
    assert card._spdx({})["license"] == "other"
