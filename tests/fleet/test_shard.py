"""One shard in this process: rows kept from the model, rows alone, parts of another plan."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lmmsteer import manifest
from lmmsteer.config import EngineConfig, SamplingConfig
from lmmsteer.datasets.folder import Folder
from lmmsteer.device import detect
from lmmsteer.engine.shared import Shared
from lmmsteer.fleet.shard import Shard, found
from lmmsteer.fleet.task import MethodSpec, ModelSpec, Task
from lmmsteer.fleet.worker import Worker
from lmmsteer.models import lmm
from lmmsteer.models.lmm import Lmm
from lmmsteer.parts import DamagedPart
from lmmsteer.store import LocalStore, Store
from tests.fleet.runs import photos
from tests.tiny import tiny_llava

PART = "part-00000.parquet"
PROMPTS = {"a": "What is this?", "b": "Describe the person."}
ATTRIBUTE = {"name": "none", "question": None, "words": []}


@pytest.fixture(scope="module")
def tiny() -> Lmm:
    return lmm.load(name="tiny", path=str(tiny_llava()), device=detect("cpu"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A manifest of one shard: six pictures, two prompts, one seed."""
    made = LocalStore(tmp_path / "out")
    source = Folder("d", str(photos(tmp_path / "photos")))
    asked = manifest.identity({"name": "d"}, PROMPTS, [0], None, 6)
    manifest.build(made, "d", source, asked)
    return made


def task(store: Store, folder: str) -> Task:
    return Task(
        store.root,
        folder,
        "d",
        ModelSpec("tiny", "p", None, "auto", "auto", "x"),
        MethodSpec("unsteered", {}, ATTRIBUTE),
        SamplingConfig(max_new_tokens=8),
        EngineConfig(slots=6),
        "f",
    )


def rows(store: Store, folder: str) -> list[dict]:  # type: ignore[type-arg]
    return pq.read_table(f"{store.root}/{folder}/{PART}").to_pylist()


@pytest.mark.parametrize("excluded", [{5: "worker_died"}, {2: "row_hung", 3: "row_hung"}, {}])
def test_rows_that_kill_are_reported_and_their_neighbours_have_the_text_they_would_have_had(
    tiny: Lmm, store: Store, excluded: dict[int, str]
) -> None:
    Shard(task(store, "plain"), PART, Shared(6)).answer(store, tiny)
    report = Shard(task(store, "less"), PART, Shared(6)).answer(store, tiny, excluded)
    assert sum(report.failed.values()) == len(excluded)
    for number, (row, plain) in enumerate(
        zip(rows(store, "less"), rows(store, "plain"), strict=True)
    ):
        if number in excluded:
            assert row["text"] is None
            assert row["error_kind"] == excluded[number]
            assert row["row_id"] == plain["row_id"]
        else:
            assert row == plain


def test_an_excluded_row_is_not_shown_to_the_model(
    tiny: Lmm, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Shared(6)
    shown: list[tuple[str, str]] = []
    generate = engine.generate

    def watch(lmm: Lmm, requests, pictures, edit, sampling):  # type: ignore[no-untyped-def]
        shown.extend((r.image_id, r.prompt) for r in requests)
        assert pictures["0.png"].getcolors() == [(336 * 336, (127, 127, 127))]
        return generate(lmm, requests, pictures, edit, sampling)

    monkeypatch.setattr(engine, "generate", watch)
    excluded = {0: "worker_died", 1: "worker_died", 4: "worker_died"}
    Shard(task(store, "cell"), PART, engine).answer(store, tiny, excluded)
    assert ("0.png", PROMPTS["a"]) not in shown
    assert ("2.png", PROMPTS["a"]) not in shown
    assert ("2.png", PROMPTS["b"]) in shown
    assert len(shown) == 12


def test_a_row_alone_is_answered_and_nothing_is_written(tiny: Lmm, store: Store) -> None:
    shard = Shard(task(store, "cell"), PART, Shared(6))
    for row in range(12):
        assert shard.probe(store, tiny, row).rows == 1
    assert not store.exists(f"cell/{PART}")


def test_a_part_that_is_there_is_reported_as_anothers(tiny: Lmm, store: Store) -> None:
    asked = task(store, "cell")
    assert found(store, asked, PART) is None
    Shard(asked, PART, Shared(6)).answer(store, tiny, {0: "row_hung"})
    report = found(store, asked, PART)
    assert report is not None
    assert (report.rows, report.failed, report.created) == (12, {"row_hung": 1}, False)


def test_a_manifest_part_of_another_plan_is_refused_by_the_worker(tiny: Lmm, store: Store) -> None:
    shard = manifest.load(store, "d")
    assert shard is not None
    right = (shard.shards[0].rows_digest, shard.shards[0].images_digest)
    stages: list[str] = []
    Shard(task(store, "cell"), PART, Shared(6), stages.append, right).answer(store, tiny)
    assert stages == ["edit", "generate", "commit"]
    wrong = Shard(task(store, "other"), PART, Shared(6), digests=("x", right[1]))
    with pytest.raises(DamagedPart, match="not the part that its manifest names"):
        wrong.answer(store, tiny)
    assert not store.exists(f"other/{PART}")


def test_a_worker_says_how_much_memory_a_shard_took(tiny: Lmm, store: Store) -> None:
    worker, asked = Worker("cpu", 1), task(store, "cell")
    worker.lmm, worker.spec = tiny, asked.model
    report = worker.run(asked, PART, None, {})
    assert report.failure is None, report.error
    assert report.memory is not None
    assert report.memory > 50 << 20  # A process with torch in it has more resident.
    assert worker.run(asked, PART, None, {}).memory is None  # It is there: nothing was answered.
