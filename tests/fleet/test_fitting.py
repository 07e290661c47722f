"""A fit on a worker: what it leaves behind when it is killed, what it says, what it cleans up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lmmsteer import manifest
from lmmsteer.config import EngineConfig
from lmmsteer.datasets.demo import Demo
from lmmsteer.fleet import fitting, halfway
from lmmsteer.fleet.halfway import Halfway
from lmmsteer.fleet.task import FitTask, MethodSpec, ModelSpec
from lmmsteer.fleet.telling import Listener, log_name
from lmmsteer.methods import METHODS
from lmmsteer.methods.artifact import Artifact
from lmmsteer.methods.passes import Passes
from lmmsteer.models.lmm import Lmm, load
from lmmsteer.store import LocalStore, Store

PATH = "artifacts/model=demo/method=dear/attribute=gender/artifact.safetensors"
DATA = manifest.identity({"name": "people"}, {"p": "What?"}, [0], None, 12)
MODEL = ModelSpec("demo", "demo", None, "float32", "llava", "d" * 64)


class Killed(BaseException):
    """As a kill: nothing that runs can catch it."""


@cache
def lmm() -> Lmm:
    return load("demo", "demo")


def task(out: object, **changed: Any) -> FitTask:
    method = METHODS["dear"](width=8, steps=20)  # type: ignore[call-arg]
    attribute = {"name": "gender", "question": "Which gender?", "words": ["man"]}
    found = FitTask(
        out=str(out),
        path=PATH,
        dataset="people",
        parts=("part-00000.parquet", "part-00001.parquet"),
        model=MODEL,
        method=MethodSpec("dear", dict(vars(method)), attribute),
        engine=EngineConfig(name="reference", slots=4),
        fingerprint={"model": "d" * 64, "method": {"steps": 20}},
    )
    return replace(found, **changed)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = LocalStore(tmp_path / "out")
    manifest.build(made, "people", Demo("people", images=24, split="fit"), DATA)  # type: ignore[arg-type]
    return made


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Passes.rows, "__defaults__", (8, None))


def killed_after(monkeypatch: pytest.MonkeyPatch, passes: int) -> Callable[[], None]:
    """The next fit is killed right after so many passes have been kept."""
    kept, inner = [], Halfway.write

    def write(self: Halfway, name: str, data: bytes) -> None:
        inner(self, name, data)
        kept.append(name)
        if len(kept) == passes:
            raise Killed

    monkeypatch.setattr(Halfway, "write", write)
    return lambda: monkeypatch.setattr(Halfway, "write", inner)


def hidden(store: LocalStore) -> list[str]:
    """Names of all that lies below hidden folders."""
    files = [path.relative_to(store.folder) for path in store.folder.rglob("*") if path.is_file()]
    return sorted(f.name for f in files if any(part.startswith(".") for part in f.parts))


def test_a_fit_that_was_killed_goes_on_and_its_artifact_is_that_of_an_undisturbed_one(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = fitting.fit(store, lmm(), task(store.root))
    whole = store.read_bytes(PATH)
    assert report.created
    assert not hidden(store)
    (store.folder / PATH).unlink()
    for passes in range(1, 6):  # 24 pictures by 8, two trainings.
        mend = killed_after(monkeypatch, passes)
        with pytest.raises(Killed):
            fitting.fit(store, lmm(), task(store.root))
        mend()
        names = ["features-0", "features-8", "features-16", "classifier", "residual"][:passes]
        assert sorted(name.split("-", 2)[2] for name in hidden(store)) == sorted(names)
        assert not any(".pass" in path for path in store.list())
        written: list[str] = []
        monkeypatch.setattr(
            Halfway, "write", lambda _, name, __, written=written: written.append(name)
        )
        again = fitting.fit(store, lmm(), task(store.root))
        mend()
        assert len(written) == 5 - passes
        assert not set(written) & set(names)
        assert "some of its passes are there already, and are not computed again" in again.said
        assert store.read_bytes(PATH) == whole
        assert not hidden(store)
        (store.folder / PATH).unlink()


def test_a_helping_hand_leaves_passes_that_the_first_hand_takes(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = fitting.fit(store, lmm(), task(store.root))
    whole = store.read_bytes(PATH)
    (store.folder / PATH).unlink()
    logs = store.list("logs")
    report = fitting.fit(store, lmm(), task(store.root, hand=1, hands=2))
    assert (report.created, report.said) == (False, ())
    assert not store.exists(PATH)
    assert store.list("logs") == logs
    kept = {name.split("-", 2)[2] for name in hidden(store)}
    assert kept == {"features-0", "features-8", "features-16"}  # A training can only be waited for.
    written, inner = [], Halfway.write

    def write(self: Halfway, name: str, data: bytes) -> None:
        written.append(name)
        inner(self, name, data)

    monkeypatch.setattr(Halfway, "write", write)
    report = fitting.fit(store, lmm(), task(store.root, hands=2))
    assert report.created
    assert written == ["classifier", "residual"]
    assert set(report.said) - set(alone.said) == {
        "some of its passes are there already, and are not computed again"
    }
    assert store.read_bytes(PATH) == whole
    assert not hidden(store)


def test_a_helping_hand_that_comes_late_does_nothing_and_one_that_is_late_cleans_up(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = Halfway.write

    def write(self: Halfway, name: str, data: bytes) -> None:
        inner(self, name, data)
        monkeypatch.setattr(Halfway, "write", inner)
        fitting.fit(store, lmm(), task(store.root, hands=2))  # The first hand is done meanwhile.
        assert not hidden(store)
        inner(self, name, data)

    monkeypatch.setattr(Halfway, "write", write)
    report = fitting.fit(store, lmm(), task(store.root, hand=1, hands=2))
    assert store.exists(PATH)
    assert not report.created
    assert not hidden(store)
    monkeypatch.setattr(manifest, "read_pictures", pytest.fail)
    assert not fitting.fit(store, lmm(), task(store.root, hand=1, hands=2)).created


def test_what_another_fit_has_kept_is_not_taken_and_goes_with_the_artifact(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mend = killed_after(monkeypatch, 4)
    with pytest.raises(Killed):
        fitting.fit(store, lmm(), task(store.root))
    mend()
    other = task(store.root, fingerprint={"model": "d" * 64, "method": {"steps": 21}})
    report = fitting.fit(store, lmm(), other)
    assert not any("there already" in line for line in report.said)
    assert not hidden(store)
    assert Artifact.from_bytes(store.read_bytes(PATH)).metadata["fit"]["method"] == {"steps": 21}


def test_the_names_of_passes_hang_on_all_that_they_hang_on(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {"pictures": {"a": "0"}, "labels": {"a": "man"}}
    plain = task(store.root)
    shelves = [
        Halfway(store, plain, seen, "cpu", print),
        Halfway(store, plain, seen, "H100", print),
        Halfway(store, plain, {**seen, "pictures": {"a": "1"}}, "cpu", print),
        Halfway(store, plain, {**seen, "labels": {"a": "woman"}}, "cpu", print),
        Halfway(store, task(store.root, fingerprint={}), seen, "cpu", print),
        Halfway(store, task(store.root, engine=EngineConfig()), seen, "cpu", print),
    ]
    monkeypatch.setattr(halfway.stack, "versions", lambda: {"torch": "0.1"})
    shelves.append(Halfway(store, plain, seen, "cpu", print))
    assert len({shelf.start for shelf in shelves}) == len(shelves)
    assert Halfway(store, plain, seen, "cpu", print).start == shelves[-1].start


def test_a_damaged_pass_is_computed_again_and_said(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting.fit(store, lmm(), task(store.root))
    whole = store.read_bytes(PATH)
    (store.folder / PATH).unlink()
    mend = killed_after(monkeypatch, 4)
    with pytest.raises(Killed):
        fitting.fit(store, lmm(), task(store.root))
    mend()
    (kept,) = store.folder.rglob(".pass-*-features-8")
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(bytes(data))
    report = fitting.fit(store, lmm(), task(store.root))
    assert any(line.endswith("features-8 is damaged, and computed again") for line in report.said)
    assert store.read_bytes(PATH) == whole


def test_in_a_bucket_passes_are_kept_and_then_emptied(tmp_path: Path) -> None:
    class Bucket(LocalStore):
        def local(self, path: str) -> None:  # type: ignore[override]
            return None

    bucket, said = Bucket(tmp_path), []
    shelf = Halfway(bucket, task("s3://b"), {}, "cpu", said.append)
    assert shelf.read("x") is None
    shelf.write("x", b"data")
    assert Halfway(bucket, task("s3://b"), {}, "cpu", said.append).read("x") == b"data"
    assert bucket.list() == []
    shelf.clear()
    assert [path.stat().st_size for path in tmp_path.rglob(".pass-*-x")] == [0]
    assert Halfway(bucket, task("s3://b"), {}, "cpu", said.append).read("x") is None
    assert said == ["some of its passes are there already, and are not computed again"]


def test_what_a_fit_says_stands_in_a_log_of_its_own_and_is_heard_while_it_runs(
    store: LocalStore,
) -> None:
    old = fitting.fit(store, lmm(), task(store.root))
    (store.folder / PATH).unlink()
    heard: list[str] = []
    labels = {log_name(task(store.root)): "demo dear gender"}
    listener = Listener(store, labels, heard.append)
    report = fitting.fit(store, lmm(), task(store.root))
    assert report.said == old.said
    listener.look()
    assert heard == [f"demo dear gender: {line}" for line in report.said]
    listener.take("demo dear gender", (*report.said, "one more"))  # As the report brings them.
    assert heard[-1] == "demo dear gender: one more"
    assert len(heard) == len(report.said) + 1
    logs = [path for path in store.list("logs") if "fit-demo.dear.gender-" in path]
    assert len(logs) == 2
    event = json.loads(store.read_bytes(logs[0]).splitlines()[0])
    assert (event["event"], event["line"]) == ("said", report.said[0])


def test_a_line_that_is_under_way_waits_and_another_runs_lines_are_not_heard(
    tmp_path: Path,
) -> None:
    store, heard = LocalStore(tmp_path), []
    store.append("logs/fit-a.b.c-0.jsonl", '{"line": "before"}')
    listener = Listener(store, {"fit-a.b.c": "a b c"}, heard.append)
    for name in ("fit-a.b.c-1", "fit-a.b.c-2-1", "generate-a.b.c-1"):
        store.append(f"logs/{name}.jsonl", json.dumps({"line": name}))
    torn = tmp_path / "logs" / "fit-a.b.c-1.jsonl"
    torn.write_bytes(torn.read_bytes() + b'{"line": "half')
    listener.look()
    listener.look()
    assert heard == ["a b c: fit-a.b.c-1"]


def test_a_listener_shows_lines_as_they_come_and_says_once_what_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmmsteer.fleet import telling

    monkeypatch.setattr(telling, "LOOK_SECONDS", 0.01)
    heard: list[str] = []

    class Failing(LocalStore):
        broken = False

        def list(self, prefix: str = "") -> list[str]:
            if self.broken:
                raise OSError("stale handle")
            return super().list(prefix)

    store: Store = Failing(tmp_path)
    with Listener(store, {"fit-a.b.c": "a b c"}, heard.append):
        store.append("logs/fit-a.b.c-1.jsonl", '{"line": "one"}')
        wait_until(lambda: heard == ["a b c: one"])
        Failing.broken = True
        wait_until(lambda: len(heard) == 2)
        Failing.broken = False
        store.append("logs/fit-a.b.c-1.jsonl", '{"line": "two"}')
        wait_until(lambda: len(heard) == 3)
    assert heard[1:] == ["fit: what fits say cannot be read for now: stale handle", "a b c: two"]


def wait_until(true: Callable[[], bool]) -> None:
    from tests.fleet.runs import wait_for

    wait_for(true)
