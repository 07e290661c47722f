"""A tiny random LMM as judge, through the command line: whole replies, resumed, refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import scores
from analysis.judge.answer import SPANS_SCHEMA, Failure, Reply
from analysis.judge.local import Asked, LocalClient
from analysis.judge.settings import JudgeKeys
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet.asking import LocalModel
from lmmsteer.models import lmm as models
from lmmsteer.schema import Response
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.conftest import Command
from tests.engine.oracle import plain
from tests.engine.runs import PICTURES, PROMPTS, rows, run
from tests.tiny import save_tiny_llava, tiny_llava, tiny_lmm
from tests.tiny_families import tiny_family

ROOT = Path(__file__).resolve().parents[2]
PROMPT = """
system: Mark words.
question: "{attribute}: {definition} {text}"
picture: "{text} Yes or No?"
attributes: {gender: man}
shots: [{text: A man., spans: {gender: [man]}}]
"""


@pytest.fixture
def asked(store: LocalStore, output: build.Output, tmp_path: Path) -> LocalStore:
    """Twelve pictures, an answer for each, of which two are the same."""
    output.manifest([build.row(n, f"p{n}", gender="man") for n in range(12)])
    output.cell("unsteered", "none", lambda row, _: f"the man {int(row.image_id[1:]) % 11}")
    (tmp_path / "prompts.yaml").write_text(PROMPT)
    return store


def line(store: LocalStore, name: str = "judge", **keys: object) -> list[str]:
    given = {
        "model": tiny_llava(),
        "base_url": "local",
        "prompts": store.folder / "prompts.yaml",
        "max_tokens": 60,
        **keys,
    }
    return [
        "analyze",
        f"analysis={name}",
        f"out={store.folder}",
        "+analysis.attributes.gender=[]",
        "analysis.bootstrap=20",
        *(f"analysis.judge.{key}={value}" for key, value in given.items()),
    ]


def verdicts(store: LocalStore) -> list[dict[str, Any]]:
    files = sorted(store.folder.glob("judgements/*/*/verdicts-*.jsonl"))
    return [json.loads(text) for file in files for text in file.read_text().splitlines()]


@pytest.mark.parametrize("temperature", [0.0, 2.0, "null"])
def test_every_reply_is_a_verdict_and_a_second_run_asks_nothing(
    asked: LocalStore, command: Command, temperature: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = command(*line(asked, temperature=temperature))
    assert code == 0, err
    found = verdicts(asked)
    assert len(found) == 11
    assert all("error_kind" not in one and one["tries"] == 1 for one in found)
    assert all(one["input_tokens"] > 20 and one["output_tokens"] > 5 for one in found)
    table = scores.read(asked, "judge")
    assert table is not None
    about = table[1]["judge"]
    assert (about["judged"], about["errors"]) == (12, 0)
    assert about["setup"]["body"]["model"].startswith(tiny_llava().name + "@")
    assert about["output_tokens"] == sum(one["output_tokens"] for one in found)
    monkeypatch.setattr(models, "load", lambda **_: pytest.fail("its weights are loaded again"))
    assert command(*line(asked, temperature=temperature))[0] == 0
    assert len(verdicts(asked)) == 11


def test_the_same_weights_elsewhere_are_the_same_judge_and_others_are_not(
    asked: LocalStore, command: Command, tmp_path: Path
) -> None:
    assert command(*line(asked))[0] == 0
    moved = tmp_path / "elsewhere" / tiny_llava().name
    save_tiny_llava(moved)
    assert command(*line(asked, model=moved))[0] == 0
    assert len(verdicts(asked)) == 11
    other = tmp_path / "other" / tiny_llava().name
    save_tiny_llava(other, seed=1)
    assert command(*line(asked, model=other))[0] == 0
    assert len(verdicts(asked)) == 22


def test_the_picture_judge_says_yes_or_no(asked: LocalStore, command: Command) -> None:
    keys = {"temperature": 1.0, "pixels": 64, "max_tokens": 1024}  # More than it has positions for.
    code, _, err = command(*line(asked, "accuracy", **keys))
    assert code == 0, err
    table = scores.read(asked, "accuracy.rows")
    assert table is not None
    assert table[0]["yes"].null_count() == 0
    assert len(verdicts(asked)) == 11  # The pictures are one by their sha256.


def test_a_prompt_without_room_is_an_error_of_its_row(asked: LocalStore, command: Command) -> None:
    code, out, err = command(*line(asked, prompts="null"))
    assert code == 1
    assert "11 rejected" in err
    assert "more than 512" in err
    assert "Traceback" not in out + err
    assert {one["error_kind"] for one in verdicts(asked)} == {"rejected"}
    assert "more than 512" in verdicts(asked)[0]["error"]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"model": "/nowhere"}, "analysis.judge.model=/nowhere is not a folder."),
        ({"model": "null"}, "analysis.judge.model has no value."),
        ({"max_tokens": 4}, "are allowed"),
        ({"step": "export"}, "no batch route"),
        ({"+extra.seed": 1}, "analysis.judge.extra is for servers"),
        ({"base_url": "locally"}, "neither an http:// or https:// address nor local"),
    ],
    ids=str,
)
def test_what_cannot_work_is_one_sentence(
    asked: LocalStore, command: Command, keys: dict[str, object], says: str
) -> None:
    arguments = [a.replace("analysis.judge.+", "+analysis.judge.") for a in line(asked, **keys)]
    code, out, err = command(*arguments)
    assert code == 2
    assert says in err
    assert "Traceback" not in out + err
    assert verdicts(asked) == []


def test_a_folder_that_is_no_model_is_one_sentence(
    asked: LocalStore, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = command(*line(asked, model=tmp_path / "empty"))
    assert code == 2
    assert f"analysis.judge.model={tmp_path / 'empty'}" in err
    assert "Traceback" not in out + err


def test_a_family_that_says_nothing_without_a_picture_cannot_judge_texts(
    asked: LocalStore, command: Command
) -> None:
    code, out, err = command(*line(asked, model=tiny_family("blip")))
    assert code == 2
    assert "cannot judge texts" in err
    assert "Traceback" not in out + err


def test_a_judge_that_is_killed_asks_nothing_twice(
    store: LocalStore, output: build.Output, tmp_path: Path
) -> None:
    output.manifest([build.row(n, f"p{n}", gender="man") for n in range(60)])
    output.cell("unsteered", "none", lambda row, _: f"the man {row.image_id}")
    (tmp_path / "prompts.yaml").write_text(PROMPT)
    command = [sys.executable, "-m", "jobs", *line(store, concurrency=2)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(_whole(store)) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = _whole(store)
    assert 6 <= len(before) < 60
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"judge: {60 - len(before)} verdicts" in done.stdout
    assert max(Counter(_whole(store)).values()) == 1
    assert len(_whole(store)) == 60


def _whole(store: LocalStore) -> list[str]:
    """The questions of all lines that are whole."""
    files = store.folder.glob("judgements/*/*/verdicts-*.jsonl")
    lines = [text for file in files for text in file.read_text().split("\n")[:-1]]
    return [json.loads(text)["key"] for text in lines]


@pytest.mark.parametrize("engine", [Shared(6), Reference(5)], ids=["shared", "reference"])
def test_a_question_about_a_text_is_asked_without_the_picture(engine: Any) -> None:
    sampling = Sampling(temperature=0, max_new_tokens=8)
    found = run(engine, rows(), Edit(blind=True), sampling)
    model, _ = plain(tiny_llava())
    lmm = tiny_lmm()
    expected = []
    for prompt in PROMPTS:
        ids = [t for t in lmm.token_ids(prompt, lmm.image_token) if t != lmm.image_token_id]
        batch = torch.tensor([ids])
        out = model.generate(
            input_ids=batch,
            attention_mask=torch.ones_like(batch),
            do_sample=False,
            max_new_tokens=8,
            eos_token_id=list(lmm.eos_ids),
            pad_token_id=0,
        )
        said = out[0, len(ids) :].tolist()
        expected.append(said[:-1] if said[-1] in lmm.eos_ids else said)
    assert [response.token_ids for response in found] == expected * len(PICTURES)


class Pretend:
    """A model that remembers what it was asked together."""

    name = "pretend@0"

    def __init__(self, *responses: Response | Exception) -> None:
        self.batches: list[list[str]] = []
        self.responses = list(responses)

    def answer(self, asked: Any, *_: Any) -> list[tuple[Response, int]]:
        self.batches.append([one.prompt for one in asked])
        if self.responses and isinstance(self.responses[0], Exception):
            raise self.responses[0]
        given = self.responses or [Response("0" * 32, "i", "p", 0, "Yes", new_tokens=1)]
        return [(given[n % len(given)], 7) for n in range(len(asked))]


def body(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def asks(client: LocalClient, *texts: str) -> list[Reply | Failure]:
    async def together() -> list[Reply | Failure]:
        return list(await asyncio.gather(*(client.ask(body(text)) for text in texts)))

    return asyncio.run(together())


def test_questions_that_wait_are_answered_together() -> None:
    model = Pretend()
    found = asks(LocalClient(model, JudgeKeys()), "a", "b", "c")
    assert model.batches == [["a", "b", "c"]]
    assert found == [Reply("Yes", 7, 1)] * 3


def test_what_the_engine_could_not_answer_is_a_failure_with_its_kind() -> None:
    failed = Response("0" * 32, "i", "p", 0, error="no", error_kind="prompt_refused")
    cut = Response("0" * 32, "i", "p", 0, "Ye", new_tokens=1, finish_reason="length")
    found = asks(LocalClient(Pretend(failed, cut), JudgeKeys()), "a", "b")
    assert [one.kind for one in found if isinstance(one, Failure)] == ["rejected", "truncated"]
    assert "prompt_refused" in found[0].message  # type: ignore[union-attr]


def test_what_no_question_survives_ends_the_run() -> None:
    client = LocalClient(Pretend(LmmsteerError("No memory.", "Take less.")), JudgeKeys())
    with pytest.raises(LmmsteerError, match="No memory"):
        asks(client, "a", "b")


def test_turns_become_one_text_with_the_worked_answers_marked() -> None:
    turns = [
        {"role": "system", "content": "Mark words.\n"},
        {"role": "user", "content": "A man."},
        {"role": "assistant", "content": '{"spans": ["man"], "count": 1}'},
        {"role": "user", "content": "A cat."},
    ]
    model = Pretend()
    asyncio.run(LocalClient(model, JudgeKeys()).ask({"messages": turns}))
    (shown,) = model.batches[0]
    assert shown == 'Mark words.\n\nA man.\n\nAnswer: {"spans": ["man"], "count": 1}\n\nA cat.'


def test_an_answer_does_not_hang_on_what_is_asked_beside_it() -> None:
    model = LocalModel(str(tiny_llava()), "analysis.judge.model")
    asked = [Asked(f"{n:032x}", f"Is it {n}?", None) for n in range(5)]
    together = model.answer(asked, SPANS_SCHEMA, (), 0.0, 50)
    alone = [model.answer([one], SPANS_SCHEMA, (), 0.0, 50)[0] for one in asked]
    assert together == alone
