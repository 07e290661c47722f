"""python -m tests.pages FOLDER [PAGE ...]: the commands of README and docs/, in a fresh folder.

They run in turn with the command that is installed beside this Python. What a reader brings is
there under its name: pictures, published data sets in miniature, toy models in a hub's cache, a
server that answers as a judge. Words that stand for something of the reader's (STANDS) are
replaced, and long work is made smaller (SMALLER); what needs a card or has a target of its own is
named with the reason (ELSEWHERE). `view` is asked for its page and interrupted, `status --watch`
too.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmmsteer.demo.people import write_folder
from tests.analysis.judge_server import Server, good
from tests.datasets.layouts import pictures as photographs
from tests.papers.__main__ import write_hub
from tests.papers.data import write_all
from tests.test_docs import PAGES, ROOT, commands
from tests.tiny import save_tiny_llava
from tests.tiny_families import save_tiny

FIRST = ("README.md", "docs/start.md", "docs/verbs.md")  # What these make, others look at.
PORTS = (8000, 11434)  # Of vLLM and ollama, where the pages look for a judge.
STANDS = {
    "data=DIR": "data=data",
    "dataset.path=FACET": "dataset.path=data/facet",
    "model=...": "model=demo",
    "model.path=...": "model.path=demo",
    "out=...": "out=runs/study",
    "out=/shared/study": "out=runs/shared",
    "device=cuda": "device=cpu",
    "cluster.address=auto": "",
    "analysis.judge.model=FOLDER": "analysis.judge.model=judge analysis.judge.max_tokens=64",
    "analysis.judge.model=gpt-4o": "analysis.judge.model=gpt-4o "
    f"analysis.judge.base_url=http://localhost:{PORTS[0]}/v1",
    "FOLDER": "scratch",
    "OUT": "runs/study",
    "PICTURES": "40",
    "ROWS": "2000",
    "N": "20",
}
# What stands for `...` alone, by what the command begins with.
DOTS = {
    "lmmsteer generate engine": "out=runs/engine-{}",
    "lmmsteer analyze analysis=judge": "out=runs/study analysis.judge.model=gpt-4o",
}
# Words behind a command that begins so, to make it smaller; or numbers in it that are.
SMALLER = (
    (r"lmmsteer bench", "pictures=2 repeats=1 'batch_sizes=[4]' sweep_tokens=4 lengths=fixed:8"),
    (r"python -m lmmsteer.engine.bench --shape", "--pictures 1 --lengths fixed:8 --batch-sizes 4"),
    (r"lmmsteer generate -m .*dataset.path=pictures model.path=", "limit=12 'seeds=[0]'"),
    (r"lmmsteer (generate|plan|manifest) (?!.*(limit=|dataset=(?!demo)))", "limit=8 'seeds=[0]'"),
    (r"lmmsteer generate (?!.*limit=)", "limit=4"),
    (r"python -m jobs.cost", "--repeats 1 --methods ala"),
    (r"python -m tests.chaos.resume_time", "1"),
)
COUNTS = {"200000": "2000", "100000": "1000", "600": "20", "500": "20"}
ELSEWHERE = (
    (r"^make ", "a target of its own"),
    (r"experiment=paper_|out=runs/(steering|ala|howard)\b", "make papers runs it"),
    (r"\bhpu\b", "make test-gaudi runs it"),
    (r"--shape ll", "wants an accelerator's memory"),
    (r"lmmsteer\.demo\.train", "make train-demo"),
    (r"\bVERB\b|=NAME\b|=A\b", "no command"),
    (r"^lmmsteer (?!doctor|bench|--help)\S+( analysis=\w+)?$|^python -m lmmsteer$", "a name"),
)


def main(folder: Path, pages: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    environment = prepared(folder)
    done: set[str] = set()
    failed = []
    with judges(folder):
        for page in pages or ordered():
            for line in commands(ROOT / page):
                if line in done:
                    continue
                done.add(line)
                try:
                    one(line, page, folder, environment)
                except Exception as error:  # The others are tried too; the last lines name all.
                    print(f"FAILED  {page}: {line}  [{error!r}]", flush=True)
                    failed.append(line)
    if failed:
        raise SystemExit(f"{len(failed)} commands failed:\n" + "\n".join(failed))


def ordered() -> list[str]:
    names = [page.relative_to(ROOT).as_posix() for page in PAGES]
    return [*FIRST, *(name for name in names if name not in FIRST)]


def prepared(folder: Path) -> dict[str, str]:
    """What a reader brings; and the environment of the commands."""
    if not (folder / "hub").exists():
        write_folder(folder / "pictures_to_learn_from", 96, split="fit")
        write_folder(folder / "pictures", 24)
        (folder / "photos").mkdir()
        photographs(folder / "photos", [f"{number}.jpg" for number in range(4)])
        write_all(folder / "data")
        place = save_tiny_llava(folder / "judge")  # Its rotary positions have no end.
        file = place / "config.json"
        file.write_text(re.sub(r'("max_position_embeddings": )512', r"\g<1>8192", file.read_text()))
        write_hub(folder / "hub")
        place = folder / "hub/models--google--gemma-3-4b-it"
        save_tiny("gemma3", place / "snapshots" / ("0" * 40))
        (place / "refs").mkdir()
        (place / "refs/main").write_text("0" * 40)
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_CACHE": str((folder / "hub").resolve()),
        "HF_HUB_OFFLINE": "1",
        "OPENAI_API_KEY": "sk-of-a-reader",
    }


def one(line: str, page: str, folder: Path, environment: dict[str, str]) -> None:
    """Run a command, or say where it is run. Raises: CalledProcessError."""
    for pattern, reason in ELSEWHERE:
        if re.search(pattern, line):
            print(f"--      {page}: {line}  [{reason}]", flush=True)
            return
    words = spelled_out(line)
    started = time.monotonic()
    print(f"\n$ {shlex.join(words)}", flush=True)
    if "view" in words[:2]:
        viewed([word for word in words if word != "open=true"], folder, environment)
    elif "--watch" in words:
        watched(words, folder, environment)
    else:
        if "analysis.judge.step=import" in words:
            (folder / "results.jsonl").write_text("\n".join(batch(folder / "runs/study")))
        subprocess.run(words, cwd=folder, env=environment, check=True)
    print(f"-- {time.monotonic() - started:4.0f} s  {page}: {line}", flush=True)


def spelled_out(line: str) -> list[str]:
    """A command's words, with what stands for something of the reader's replaced."""
    begins = next((start for start in DOTS if line.startswith(start)), "")
    more = next((words for pattern, words in SMALLER if re.search(pattern, line)), "")
    made = []
    for word in shlex.split(line):
        if word == "...":
            made += shlex.split(DOTS[begins].format(re.sub(r"\W+", "-", line)[-20:]))
        else:
            made.append(COUNTS.get(word, word))
    made = [part for word in made for part in shlex.split(STANDS.get(word, shlex.quote(word)))]
    return [*made, *shlex.split(more)]


@contextmanager
def judges(folder: Path) -> Iterator[None]:
    """A judge behind each of PORTS."""
    made = [Server(folder / "asked.jsonl", None, ["ok"], port) for port in PORTS]
    for server in made:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        for server in made:
            server.shutdown()


def batch(out: Path) -> Iterator[str]:
    """What a batch route answers to the exported requests."""
    for path in sorted(out.glob("judgements/*/*/batch/requests-*.jsonl")):
        for text in path.read_text().splitlines():
            request = json.loads(text)
            message = {"role": "assistant", "content": good(request["body"])}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            body = {"id": "a", "choices": [choice], "usage": usage}
            answered = {"status_code": 200, "request_id": "r", "body": body}
            made = {"id": "b", "custom_id": request["custom_id"], "error": None}
            yield json.dumps({**made, "response": answered})


def viewed(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    """The page is there and has an answer's table, and Ctrl-C ends it well."""
    with subprocess.Popen(
        [*words, "port=0"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        with urllib.request.urlopen(run.stdout.readline().split()[0]) as answer:
            assert b"<title>" in answer.read()
        run.send_signal(signal.SIGINT)
        run.stdout.read()
        assert run.wait() == 0


def watched(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    """It ends by itself where nothing runs any more, or by Ctrl-C, well."""
    with subprocess.Popen(words, cwd=folder, env=environment) as run:
        try:
            run.wait(20)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGINT)
        assert run.wait() in (0, 1), run.returncode


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
