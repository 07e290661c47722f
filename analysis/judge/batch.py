"""The batch route: requests as JSON lines for a provider's batch service or `vllm run-batch`, and
their results back. A result that is imported twice changes nothing.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from analysis.judge.answer import Failure, Reply, reply_of, shown
from analysis.judge.question import URL, Question, Setup
from analysis.judge.verdicts import Verdicts
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import Store

LINES = 50_000  # in a file, and bytes: OpenAI's limits
BYTES = 90_000_000


def export(store: Store, setup: Setup, questions: Iterable[Question], log: Verdicts) -> list[str]:
    """Write the questions to out/judgements/KIND/SETUP/batch and return the files.

    Requests of an earlier export go to out/trash first. What cannot be asked (a broken picture)
    is settled at once, as an error.
    """
    folder = f"{setup.folder}/batch"
    for path in store.list(folder):
        store.move(path, f"trash/{uuid.uuid4().hex[:8]}/{path}")
    paths = []
    for number, data in enumerate(_files(setup, questions, log)):
        paths.append(f"{folder}/requests-{number:05d}.jsonl")
        store.write_bytes(paths[-1], data)
    log.flush()
    return paths


def _files(setup: Setup, questions: Iterable[Question], log: Verdicts) -> Iterator[bytes]:
    lines: list[bytes] = []
    size = 0
    for question in questions:
        messages = question.messages()
        if isinstance(messages, Failure):
            log.add(question, messages, (0, 0), 0)
            continue
        line = _request(setup, question.key, setup.asked(messages))
        if lines and (len(lines) >= LINES or size + len(line) > BYTES):
            yield b"".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    if lines:
        yield b"".join(lines)


def _request(setup: Setup, key: str, body: dict[str, Any]) -> bytes:
    request = {"custom_id": setup.custom_id(key), "method": "POST", "url": URL, "body": body}
    return json.dumps(request, ensure_ascii=True).encode() + b"\n"


def take(
    files: Sequence[str], setup: Setup, questions: Iterable[Question], log: Verdicts
) -> Counter[str]:
    """Write the verdicts of result files; how many were taken, failed (by kind) or passed over.

    questions: those that have no verdict yet. Raises: LmmsteerError for a file that is none.
    """
    if not files:
        raise LmmsteerError(
            "analysis.judge.results names no file of batch results.",
            "Name them: 'analysis.judge.results=[results.jsonl]'",
        )
    open_questions = {question.key: question for question in questions}
    errors = dict(log.read().select("key", "error_kind").iter_rows())
    found: Counter[str] = Counter()
    for file in files:
        for place, line in _lines(file):
            kind = _take(line, place, setup, open_questions, errors, log)
            found[kind] += 1
    log.flush()
    return found


def _take(
    line: Any,
    place: str,
    setup: Setup,
    questions: dict[str, Question],
    errors: dict[str, str | None],
    log: Verdicts,
) -> str:
    custom = line.get("custom_id") if isinstance(line, dict) else None
    if not isinstance(custom, str):
        raise LmmsteerError(
            f"{place} is no batch result: it has no custom_id.",
            "Give the results, not the requests or another file.",
        )
    if "body" in line and "response" not in line:
        raise LmmsteerError(f"{place} is a request, no result.", "Give the file of the results.")
    made_with, _, key = custom.partition("-")
    if made_with != setup.digest:
        return "of another setup"
    question = questions.get(key)
    if question is None:
        return "not open"
    reply = _reply(line)
    found = question.read(reply) if isinstance(reply, Reply) else reply
    kind = found.kind if isinstance(found, Failure) else None
    if kind is None or errors.get(key) != kind:
        log.add(question, found, (reply.input_tokens, reply.output_tokens), 1)
    if kind is not None:
        errors[key] = kind
        return kind
    del questions[key]
    return "taken"


def _reply(line: dict[str, Any]) -> Reply | Failure:
    response, error = line.get("response"), line.get("error")
    if not isinstance(response, dict):
        return Failure("batch", shown(error))
    if response.get("status_code", 200) != 200 or error:
        return Failure("batch", shown(error or response))
    return reply_of(response.get("body"))


def _lines(file: str) -> Iterator[tuple[str, Any]]:
    try:
        with Path(file).open("rb") as handle:
            for number, text in enumerate(handle, start=1):
                if text.strip():
                    yield f"{file} line {number}", json.loads(text)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise LmmsteerError(
            f"analysis.judge.results: {file} cannot be read: {reason}.",
            "Fetch the whole file again.",
        ) from error


def described(found: Counter[str], say: Callable[[str], None]) -> None:
    """Say what an import came to."""
    rest = [f"{number} {kind}" for kind, number in sorted(found.items()) if kind != "taken"]
    say(f"judge: {found['taken']} verdicts taken" + "".join(f", {text}" for text in rest))
