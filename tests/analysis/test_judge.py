"""The judge against a real server process that misbehaves (judge_server.py)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analysis import judge, scores
from analysis.judge import answer
from analysis.judge import prompts as prompt_files
from analysis.judge.client import retry_after
from analysis.judge.settings import JudgeKeys
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.store import LocalStore
from tests.analysis import build

KEY = "sk-not-to-be-seen-4711"
ROOT = Path(__file__).resolve().parents[2]
TEXTS = {
    "p0": "The young man, a man.",
    "p1": "A woman and her dog",
    "p2": None,
    "p3": "A person",
    "p4": "A person",
    "p5": "",
    "p6": "She reads; he, the man, sleeps.",
}
MENTIONS = 2 + 2 + 0 + 0 + 0 + 3


@dataclass
class Served:
    """A running server: its address, and what it was asked."""

    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def requests(self) -> list[tuple[str, str, float]]:
        if not self.log.exists():
            return []
        return [tuple(json.loads(line)) for line in self.log.read_text().splitlines()]

    def each(self) -> Counter[str]:
        return Counter(name for name, _, _ in self.requests())


PASSING = (
    *("429", "429-bare", "429-ms", "429-date", "500", "503", "reset", "torn", "cut", "html"),
    *("list", "hang", "slow", "nothing", "half", "prose", "schema", "words", "bare", "extra"),
    "echo",
)
Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[subprocess.Popen[str]] = []

    def start(*behaviours: str, key: str | None = KEY) -> Served:
        log = tmp_path.parent / f"{tmp_path.name}-server-{len(started)}.log"
        command = [sys.executable, str(Path(__file__).with_name("judge_server.py")), str(log)]
        command += ["--key", key] if key else []
        process = subprocess.Popen([*command, *behaviours], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return Served(int(process.stdout.readline()), log)

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def said(store: LocalStore, capfd: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    """What the judge says; afterwards the key is nowhere, neither in a file nor on screen."""
    lines: list[str] = []
    yield lines
    captured = capfd.readouterr()
    hidden = KEY.encode()
    assert KEY not in captured.out + captured.err + "".join(lines)
    for file in store.folder.rglob("*"):
        assert not file.is_file() or hidden not in file.read_bytes(), file


def answers(output: build.Output, said: dict[str, str | None] | None = None) -> build.Output:
    texts = TEXTS if said is None else said
    rows = [build.row(number, image) for number, image in enumerate(texts)]
    output.manifest(rows).cell("unsteered", "none", lambda row, _: texts[row.image_id])
    return output


def ask(
    store: LocalStore,
    server: Served | None,
    say: list[str],
    name: str = "judge",
    **changed: Any,
) -> list[str]:
    """One run, with waits short enough for a test."""
    partial = changed.pop("allow_partial", False)
    url = server.url if server else "http://127.0.0.1:9/v1"
    keys: dict[str, Any] = {"model": "judge-1", "base_url": url, "timeout": 2.0, "retries": 3}
    keys |= {"concurrency": 4, "max_wait": 10.0, "pixels": 64, **changed}
    settings = judge.Judging(
        name=name,
        attributes={"gender": []},
        bootstrap=50,
        allow_partial=partial,
        judge=JudgeKeys(**keys),
    )
    try:
        return judge.run(store, settings, say.append)
    except LmmsteerError as error:
        say.append(f"{error.what} {error.mend}")
        raise


def value(store: LocalStore, metric: str, name: str = "judge", method: str = "unsteered") -> Any:
    found = scores.read(store, name)
    assert found is not None
    same = pl.col("metric") == metric, pl.col("method") == method
    return found[0].row(by_predicate=pl.all_horizontal(same), named=True)


def rows(store: LocalStore, name: str = "judge") -> pl.DataFrame:
    return pl.read_parquet(store.folder / f"scores/{name}.rows.parquet")


def about(store: LocalStore, name: str = "judge") -> dict[str, Any]:
    found = scores.read(store, name)
    assert found is not None
    return found[1][name]


def test_counts_are_verified_mentions_per_1k_judged_rows_beside_the_bigrams(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str]
) -> None:
    server = serve("good")
    answers(output)
    ask(store, server, said, price_input=2.0, price_output=8.0)
    found = value(store, "per_1k")
    assert found["value"] == pytest.approx(1000 * MENTIONS / 6)
    assert (found["n"], found["attribute"], found["coverage"]) == (6, "gender", 6 / 7)
    assert value(store, "bigrams_per_1k")["value"] == pytest.approx(1000 * MENTIONS / 6)
    assert value(store, "mismatch_share")["value"] == 0
    # p3 and p4 say the same, so five questions were asked for six answers.
    assert list(server.each().values()) == [1] * 5
    spent = about(store)
    assert (spent["input_tokens"], spent["output_tokens"]) == (500, 50)
    assert spent["price"] == pytest.approx(500 * 2e-6 + 50 * 8e-6)
    first = rows(store).row(0, named=True)
    assert (first["spans"], first["count"], first["count_effective"]) == (["man", "man"], 2, 2)


def test_change_against_unsteered_is_over_the_pictures_both_have(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str]
) -> None:
    plain: dict[str, str | None] = {"p0": "man man", "p1": "old man", "p2": "woman"}
    steered: dict[str, str | None] = {"p0": "old man", "p1": "old old", "p2": None}
    answers(output, plain)
    output.cell("steered_dataset", "gender", lambda row, _: steered[row.image_id], words=["man"])
    server = serve("good")
    ask(store, server, said)
    change = value(store, "change_percent", method="steered_dataset")
    assert change["value"] == pytest.approx(100 * ((1 / 2) / (3 / 2) - 1))
    assert len(server.each()) == 4  # "old man" is asked once for both cells


def test_a_second_run_asks_nothing(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str]
) -> None:
    server = serve("good")
    answers(output)
    ask(store, server, said)
    before = value(store, "per_1k")
    ask(store, server, said)
    assert set(server.each().values()) == {1}
    assert value(store, "per_1k") == before


def test_another_model_prompt_or_text_is_another_question(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str], tmp_path: Path
) -> None:
    server = serve("good")
    answers(output)
    ask(store, server, said)
    ask(store, server, said, model="judge-2")
    other = tmp_path / "prompts.yaml"
    other.write_text(prompt_files.SHIPPED.read_text().replace("You mark", "Please mark"))
    ask(store, server, said, prompts=str(other))
    assert (len(server.requests()), len(server.each())) == (15, 15)
    part = next(store.folder.glob("responses/**/part-00000.parquet"))
    part.unlink()
    changed = {**TEXTS, "p3": "A man"}
    output.cell("unsteered", "none", lambda row, _: changed[row.image_id])
    ask(store, server, said)
    assert len(server.requests()) == 16


@pytest.mark.parametrize(
    "trouble",
    PASSING,
)
def test_trouble_that_passes_leaves_no_trace_in_the_scores(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str], trouble: str
) -> None:
    server = serve(trouble, "good")
    answers(output)
    ask(store, server, said, timeout=1.0 if trouble in ("hang", "slow") else 5.0)
    assert value(store, "per_1k")["value"] == pytest.approx(1000 * MENTIONS / 6)
    assert value(store, "error_share")["value"] == 0
    assert set(server.each().values()) == {2}


@pytest.mark.parametrize("trouble", ["429", "429-ms", "429-date"])
def test_a_wait_that_the_server_asks_for_is_kept(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str], trouble: str
) -> None:
    server = serve(trouble, "good")
    answers(output, {"p0": "a man"})
    ask(store, server, said)
    (_, _, first), (_, _, second) = server.requests()
    # A date has whole seconds: two seconds on, it is more than one away.
    assert second - first >= (1.0 if trouble == "429-date" else 0.29)


def test_a_storm_of_429_holds_everybody_back(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str]
) -> None:
    server = serve("429", "429", "good")
    answers(output, {f"p{i}": f"man {i}" for i in range(24)})
    ask(store, server, said, concurrency=8)
    assert value(store, "per_1k")["value"] == 1000
    times = [seconds for _, _, seconds in server.requests()]
    gaps = [b - a for a, b in pairwise(times)]
    assert sum(gap > 0.2 for gap in gaps) >= 4  # the whole pool waits, not one place of it
    assert max(server.each().values()) == 3


@pytest.mark.parametrize(
    ("trouble", "kind", "asked"),
    [
        ("500", "server", 4),
        ("429-ms", "rate_limit", 4),
        ("reset", "connection", 4),
        ("hang", "timeout", 4),
        ("torn", "malformed", 4),
        ("half", "bad_json", 2),
        ("schema", "wrong_schema", 2),
        ("echo", "bad_json", 2),
        ("refusal", "refusal", 1),
        ("length", "truncated", 1),
        ("filter", "content_filter", 1),
        ("400", "rejected", 1),
    ],
)
def test_trouble_that_stays_is_an_error_and_never_a_zero(
    store: LocalStore,
    output: build.Output,
    serve: Serve,
    said: list[str],
    trouble: str,
    kind: str,
    asked: int,
) -> None:
    server = serve(trouble)
    answers(output, {"p0": "a man", "p1": "a woman"})
    with pytest.raises(RunFailed, match=kind):
        ask(store, server, said, timeout=0.5 if trouble == "hang" else 5.0)
    assert not store.exists("scores/judge.parquet")
    assert list(server.each().values()) == [asked] * 2
    ask(store, server, said, step="score", max_error_share=1.0)
    found = rows(store)
    assert found["error_kind"].to_list() == [kind, kind]
    assert found["count"].to_list() == [None, None]
    assert (value(store, "per_1k")["value"], value(store, "per_1k")["n"]) == (None, 0)
    assert value(store, "error_share")["value"] == 1


def test_outages_are_asked_again_and_paid_errors_only_when_told(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str]
) -> None:
    answers(output, {"p0": "a man"})
    away = serve("refusal", "good")
    with pytest.raises(RunFailed):
        ask(store, away, said)
    with pytest.raises(RunFailed, match="refusal"):
        ask(store, away, said)
    assert len(away.requests()) == 1
    ask(store, away, said, retry=True)
    assert value(store, "per_1k")["value"] == 1000
    assert about(store)["input_tokens"] == 200  # the refusal was paid for too


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        ("401", "OPENAI_API_KEY"),
        ("403", "OPENAI_API_KEY"),
        ("404", "analysis.judge.model"),
        ("quota", "credit"),
        ("429-long", "max_wait=3600"),
    ],
)
def test_what_no_retry_can_mend_ends_the_run_at_once(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str], trouble: str, says: str
) -> None:
    server = serve(trouble)
    answers(output, {f"p{i}": f"man {i}" for i in range(40)})
    with pytest.raises(RunFailed, match=says):
        ask(store, server, said)
    assert len(server.requests()) <= 4  # those in flight
    assert not store.exists("scores/judge.parquet")


def test_a_server_that_is_down_ends_the_run_before_every_row_has_failed(
    store: LocalStore, output: build.Output, said: list[str]
) -> None:
    answers(output, {f"p{i}": f"man {i}" for i in range(200)})
    with pytest.raises(RunFailed, match="answers no more"):
        ask(store, None, said, retries=0)
    kept = list(store.folder.glob("judgements/judge/*/verdicts-*.jsonl"))
    assert sum(len(file.read_text().splitlines()) for file in kept) < 20


def test_a_span_that_is_not_in_the_text_does_not_count(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str]
) -> None:
    answers(output, {"p0": "a man", "p1": "a woman"})
    ask(store, serve("invented"), said)
    assert value(store, "per_1k")["value"] == 0
    assert value(store, "mismatch_share")["value"] == 1
    found = rows(store)
    assert found["count"].to_list() == [2, 2]
    assert found["count_effective"].to_list() == [0, 0]


@pytest.mark.parametrize(
    ("spans", "text", "found"),
    [
        (["she", "he"], "Then she left", 1),
        (["he"], "Then she left", 0),
        (["man", "man"], "a man", 1),
        (["man", "man"], "a man, a man", 2),
        (["Man"], "a man", 0),
        (["dark skin"], "dark skin.", 1),
        (["dark skin", "dark"], "dark skin.", 1),
        (["30s"], "in her 30s", 1),
        (["", " "], "a b", 0),
        (["(he)"], "they (he) say", 1),
        (["мужчина"], "это мужчина", 1),
    ],
)
def test_a_span_is_verified_where_it_stands_as_whole_words_and_once(
    spans: list[str], text: str, found: int
) -> None:
    assert answer.verified(spans, text) == found


def test_the_share_takes_the_same_rows_of_every_cell(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str]
) -> None:
    texts: dict[str, str | None] = {f"p{i}": f"man {i}" for i in range(60)}
    answers(output, texts)
    output.cell("prompt", "none", lambda row, _: f"Please, {texts[row.image_id]}")
    ask(store, serve("good"), said, share=0.5)
    found = rows(store).group_by("method").agg("row_id")
    by = {row["method"]: row["row_id"] for row in found.to_dicts()}
    assert by["prompt"] == by["unsteered"]
    assert 15 < len(by["prompt"]) < 45


def test_plan_names_questions_tokens_and_price_and_calls_nobody(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str]
) -> None:
    answers(output)
    assert ask(store, None, said, step="plan") == []
    assert said[0].startswith("5 questions to ask")
    assert "price: unknown" in said[1]
    server = serve("good")
    ask(store, server, said)
    more = {**TEXTS, "p7": "She waits"}
    next(store.folder.glob("responses/**/part-00000.parquet")).unlink()
    next(store.folder.glob("manifest/**/rows/part-00000.parquet")).unlink()
    next(store.folder.glob("manifest/**/images/part-00000.parquet")).unlink()
    answers(output, more)
    said.clear()
    ask(store, server, said, step="plan", price_input=1e6, price_output=0.0)
    assert len(server.requests()) == 5
    assert said[0].startswith("1 questions to ask")
    assert "from 5 answered" in said[0]
    price = float(said[1].removeprefix("price: about ").replace(",", ""))
    assert price == pytest.approx(100, rel=0.05)  # each question cost 100 tokens


def run_batch(store: LocalStore, server: Served, results: Path) -> None:
    """What a provider's batch service does with the requests."""
    import urllib.request

    lines = []
    for path in sorted(store.folder.glob("judgements/*/*/batch/requests-*.jsonl")):
        for text in path.read_text().splitlines():
            request = json.loads(text)
            assert (request["method"], request["url"]) == ("POST", "/v1/chat/completions")
            call = urllib.request.Request(
                server.url + "/chat/completions",
                json.dumps(request["body"]).encode(),
                {"Authorization": f"Bearer {KEY}"},
            )
            with urllib.request.urlopen(call) as response:
                body = json.load(response)
            answered = {"status_code": 200, "request_id": "r", "body": body}
            line = {"id": "b", "custom_id": request["custom_id"], "response": answered}
            lines.append({**line, "error": None})
    results.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))


def test_the_batch_route_gives_the_scores_of_asking_and_is_idempotent(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str], tmp_path: Path
) -> None:
    server, results = serve("good"), tmp_path / "results.jsonl"
    answers(output)
    assert len(ask(store, None, said, step="export")) == 1
    ask(store, None, said, step="export")  # again: the earlier requests make room
    run_batch(store, server, results)
    assert len(server.requests()) == 5
    ask(store, None, said, step="import", results=[str(results)])
    once = value(store, "per_1k"), about(store)
    assert once[0]["value"] == pytest.approx(1000 * MENTIONS / 6)
    ask(store, None, said, step="import", results=[str(results)])
    assert (value(store, "per_1k"), about(store)) == once
    assert ask(store, None, said, step="export") == []


def test_failed_batch_rows_stay_errors_and_missing_ones_are_told(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str], tmp_path: Path
) -> None:
    answers(output)
    ask(store, None, said, step="export")
    results = tmp_path / "results.jsonl"
    run_batch(store, serve("good"), results)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    lines[0] |= {"response": None, "error": {"code": "batch_expired", "message": "too late"}}
    lines[1]["response"] = {"status_code": 500, "body": {"error": {"message": "broke"}}}
    lines[2]["custom_id"] = "0" * 16 + lines[2]["custom_id"][16:]
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RunFailed, match="no verdict yet"):
        ask(store, None, said, step="import", results=[str(results)])
    assert "1 of another setup" in said[-2]
    assert "2 batch" in said[-2]
    size = sum(f.stat().st_size for f in store.folder.glob("judgements/**/verdicts-*"))
    with pytest.raises(RunFailed, match="no verdict yet"):
        ask(store, None, said, step="import", results=[str(results)])
    assert size == sum(f.stat().st_size for f in store.folder.glob("judgements/**/verdicts-*"))
    ask(store, serve("good"), said)  # what is missing is asked
    assert value(store, "per_1k")["value"] == pytest.approx(1000 * MENTIONS / 6)


def test_requests_given_as_results_are_refused(
    store: LocalStore, output: build.Output, said: list[str], tmp_path: Path
) -> None:
    answers(output)
    path = store.folder / ask(store, None, said, step="export")[0]
    with pytest.raises(LmmsteerError, match="a request, no result"):
        ask(store, None, said, step="import", results=[str(path)])
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"custom_id": "x"')
    with pytest.raises(LmmsteerError, match="cannot be read"):
        ask(store, None, said, step="import", results=[str(torn)])


def test_the_picture_judge_pairs_rows_with_unsteered(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str]
) -> None:
    plain: dict[str, str | None] = {f"p{i}": "x" * (i + 1) for i in range(6)}
    steered: dict[str, str | None] = {**{f"p{i}": "xxxx" for i in range(4)}, "p4": None, "p5": "y"}
    answers(output, plain)
    output.cell("prompt", "none", lambda row, _: steered[row.image_id])
    server = serve("good")
    ask(store, server, said, name="accuracy")
    rate = value(store, "yes_rate", "accuracy")
    assert (rate["value"], rate["n"]) == (pytest.approx(50), 6)  # even lengths: 2, 4, 6
    assert value(store, "yes_rate", "accuracy", "prompt")["value"] == pytest.approx(100 * 4 / 5)
    paired = value(store, "difference_points", "accuracy", "prompt")
    # p0..p3 and p5 have both: unsteered No Yes No Yes Yes, steered Yes Yes Yes Yes No.
    assert (paired["value"], paired["n"]) == (pytest.approx(100 * (4 - 3) / 5), 5)
    tested = pl.read_parquet(store.folder / "scores/comparisons/accuracy.parquet")
    row = tested.row(0, named=True)
    assert (row["method"], row["against"], row["metric"]) == ("prompt", "unsteered", "yes_rate")
    # Of +1, 0, +1, 0, -1, however exchanged, the sum is odd: never nearer to 0 than observed.
    assert (row["p"], row["clusters"]) == (1.0, 5)
    assert row["difference"] == pytest.approx(20)
    asked = len(server.requests())
    ask(store, server, said, name="accuracy")
    assert len(server.requests()) == asked


def test_a_broken_picture_and_an_unclear_reply_are_errors(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str], monkeypatch: Any
) -> None:
    broken = build.Picture("p0", b"GIF89a nonsense", "11" * 32)
    whole = build.picture
    monkeypatch.setattr(build, "picture", lambda r: broken if r.image_id == "p0" else whole(r))
    answers(output, {"p0": "a man", "p1": "a woman"})
    with pytest.raises(RunFailed, match="picture"):
        ask(store, serve("perhaps"), said, name="accuracy")
    ask(store, None, said, name="accuracy", step="score", max_error_share=1.0)
    kinds = rows(store, "accuracy")["error_kind"].to_list()
    assert kinds == ["picture", "no_yes_or_no"]


def command(store: LocalStore, server: Served, *more: str) -> list[str]:
    settings = {"model": "judge-1", "base_url": server.url, "concurrency": "3"}
    keys = [f"analysis.judge.{name}={text}" for name, text in settings.items()]
    place = [f"out={store.folder}", "+analysis.attributes.gender=[]", "analysis.bootstrap=20"]
    return [sys.executable, "-m", "jobs", "analyze", "analysis=judge", *place, *keys, *more]


def settled(store: LocalStore) -> int:
    files = store.folder.glob("judgements/judge/*/verdicts-*.jsonl")
    return sum(file.read_bytes().count(b"\n") for file in files)


def test_a_judge_that_is_killed_pays_for_no_row_twice_but_those_in_flight(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str], tmp_path: Path
) -> None:
    answers(output, {f"p{i}": f"the man {i}" for i in range(80)})
    server = serve("pause")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_LOG": "debug"}
    for kills in range(1, 3):
        with (tmp_path / f"screen-{kills}.txt").open("wb") as screen:
            process = subprocess.Popen(
                command(store, server), cwd=ROOT, env=environment, stdout=screen, stderr=screen
            )
            before = settled(store)
            deadline = time.monotonic() + 60
            while settled(store) < before + 15 and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
    torn = next(store.folder.glob("judgements/judge/*/verdicts-*.jsonl"))
    with torn.open("ab") as handle:  # a line that a full disk cut short, and one by a kill
        handle.write(b'{"key": "abc\n{"key": "abc')
    done = subprocess.run(
        command(store, server), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    assert value(store, "per_1k")["value"] == 1000
    assert len(server.each()) == 80
    again = [name for name, times in server.each().items() if times > 1]
    assert len(again) <= 2 * 3  # two kills, three questions in flight at each
    assert max(server.each().values()) <= 3


def test_the_command_line_ends_with_1_and_a_sentence_when_the_judge_fails(
    store: LocalStore, output: build.Output, serve: Serve, said: list[str]
) -> None:
    answers(output)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command(store, serve("401")), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("lmmsteer: The judge http://127.0.0.1")
    assert "Check the key in the environment variable OPENAI_API_KEY." in done.stderr
    assert "Traceback" not in done.stderr
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model": None}, "analysis.judge.model=NAME"),
        ({"base_url": "localhost:8000"}, "http://"),
        ({"base_url": f"http://me:{KEY}@host/v1"}, "no place for them"),
        ({"key_env": KEY}, "not the name of an environment variable"),
        ({"key_env": "UNSET_KEY"}, "UNSET_KEY"),
        ({"step": "guess"}, "Choose one of"),
        ({"concurrency": 0}, "at least 1"),
        ({"share": 0.0}, "share"),
        ({"extra": {"stream": True}}, "stream"),
        ({"prompts": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_keys_that_cannot_work_are_refused_in_a_sentence(
    store: LocalStore, output: build.Output, said: list[str], changed: dict[str, Any], says: str
) -> None:
    answers(output)
    with pytest.raises(LmmsteerError, match=re.escape(says)):
        ask(store, None, said, **changed)
    assert not any(store.folder.glob("judgements/**/*.jsonl"))


def test_a_server_that_wants_no_key_is_sent_none(
    store: LocalStore,
    output: build.Output,
    serve: Serve,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    answers(output)
    with pytest.raises(LmmsteerError, match="key_env=null"):
        ask(store, None, said)
    ask(store, serve("good", key="none"), said, key_env=None)


def test_without_the_sdk_its_extra_is_named(
    store: LocalStore, output: build.Output, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(output)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(LmmsteerError, match=re.escape("pip install 'lmmsteer[judge]'")):
        ask(store, None, said)


def test_the_shipped_examples_hold_for_every_shipped_attribute() -> None:
    shipped = prompt_files.read(None)
    assert len(shipped.shots) == 2
    assert set(shipped.attributes) == {"gender", "race", "age", "body_type", "skin_tone"}
    shipped.require(list(shipped.attributes))
    turns = shipped.counting("race", "A {text} with {attribute}")
    assert [turn["role"] for turn in turns] == ["system", *["user", "assistant"] * 2, "user"]
    assert json.loads(turns[2]["content"]) == {"spans": ["Asian"], "count": 1}
    assert "A {text} with {attribute}" in turns[-1]["content"]


def test_an_attribute_the_prompt_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(LmmsteerError, match="hair"):
        prompt_files.read(None).require(["hair"])


def test_an_example_whose_span_is_not_in_its_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text(prompt_files.SHIPPED.read_text().replace("[Asian]", "[asian]"))
    with pytest.raises(LmmsteerError, match="race"):
        prompt_files.read(str(file))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "-1"}, 0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_all_its_spellings(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers) == seconds
