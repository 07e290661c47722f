"""Asks many questions at a time, politely: bounded, with waits that all share, and tries that end.

A wait that a server asks for (Retry-After) holds back every request, not only the one refused.
Whatever happens to a question is written before its place goes to the next, so that a killed
process loses at most the questions in flight: `concurrency` of them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from analysis.judge.answer import ANSWERED, Count, Failure, Match, Reply
from analysis.judge.question import Question, Setup
from analysis.judge.settings import JudgeKeys
from lmmsteer.errors import RunFailed

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
ANSWER_TRIES = 2  # of a question whose answer cannot be used: each is paid for
IN_A_ROW = 3  # times concurrency: failures without a verdict between them that end the run
TELL_EVERY = 10.0
FLUSH_EVERY = 2.0


class Client(Protocol):
    """Whoever can be asked. address: how it is named where it answers no more."""

    address: str

    async def ask(self, body: Mapping[str, Any], /) -> Reply | Failure: ...

    async def close(self) -> None: ...


class Log(Protocol):
    def add(
        self,
        question: Question,
        found: Count | Match | Failure,
        tokens: tuple[int, int],
        tries: int,
    ) -> None: ...

    def flush(self) -> None: ...


@dataclass
class Tally:
    """What a run of questions came to."""

    judged: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def settled(self) -> int:
        return self.judged + self.errors.total()


@dataclass
class Asker:
    """Questions of one setup to one client. Raises: RunFailed where no question can succeed."""

    client: Client
    setup: Setup
    keys: JudgeKeys
    log: Log
    say: Callable[[str], None]
    tally: Tally = field(default_factory=Tally)
    _resume: float = 0.0  # by a monotonic clock: nobody asks before
    _in_a_row: int = 0
    _stopped: RunFailed | None = None

    async def run(self, questions: Iterator[Question]) -> Tally:
        """Ask all; the questions are taken one by one, as places get free."""
        workers = [asyncio.create_task(self._work(questions)) for _ in range(self.keys.concurrency)]
        teller = asyncio.create_task(self._tell())
        try:
            await asyncio.gather(*workers)
        finally:
            for task in (*workers, teller):
                task.cancel()
            await asyncio.gather(*workers, teller, return_exceptions=True)
            await self.client.close()
            self.log.flush()
        if self._stopped is not None:
            raise self._stopped
        return self.tally

    async def _work(self, questions: Iterator[Question]) -> None:
        for question in questions:
            if self._stopped is not None:
                return
            await self._settle(question)

    async def _settle(self, question: Question) -> None:
        """Ask until there is a verdict or no try is left; write what it came to."""
        messages = question.messages()
        if isinstance(messages, Failure):
            self._write(question, messages, (0, 0), 0)
            return
        body, spent, tried = self.setup.asked(messages), [0, 0], 0
        found: Count | Match | Failure | None = None
        while True:
            await self._wait()
            if self._stopped is not None:
                break
            reply = await self.client.ask(body)
            tried += 1
            spent = [spent[0] + reply.input_tokens, spent[1] + reply.output_tokens]
            found = question.read(reply) if isinstance(reply, Reply) else reply
            if not isinstance(found, Failure) or not self._again(found, tried):
                break
            await self._back_off(found, tried)
        if found is not None:
            self._write(question, found, (spent[0], spent[1]), tried)

    def _again(self, failure: Failure, tried: int) -> bool:
        if failure.fatal is not None:
            self._stop(failure, failure.fatal)
        tries = ANSWER_TRIES if failure.kind in ANSWERED else self.keys.retries + 1
        return failure.again and tried < tries and self._stopped is None

    async def _back_off(self, failure: Failure, tried: int) -> None:
        """Wait as long as the server asks, for everybody, else twice as long each time, for this
        question; with jitter, so that not all come back at once."""
        if failure.after:
            self._resume = max(self._resume, time.monotonic() + failure.after)
            return
        if failure.kind not in ANSWERED:
            longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tried - 1))
            await asyncio.sleep(longest * random.uniform(0.5, 1.0))

    async def _wait(self) -> None:
        while (left := self._resume - time.monotonic()) > 0:
            await asyncio.sleep(left + random.uniform(0.0, min(1.0, 0.1 * left + 0.05)))

    def _write(
        self,
        question: Question,
        found: Count | Match | Failure,
        tokens: tuple[int, int],
        tries: int,
    ) -> None:
        self.log.add(question, found, tokens, tries)
        self.tally.input_tokens += tokens[0]
        self.tally.output_tokens += tokens[1]
        if not isinstance(found, Failure):
            self.tally.judged += 1
            self._in_a_row = 0
            return
        self.tally.errors[found.kind] += 1
        self._in_a_row += found.kind != "picture"
        if self._in_a_row >= max(IN_A_ROW * self.keys.concurrency, 10):
            self._stop(found, "Once the judge answers, the same command asks what is missing.")

    def _stop(self, failure: Failure, mend: str) -> None:
        if self._stopped is None:
            self._stopped = RunFailed(
                f"The judge {self.client.address} answers no more ({failure.kind}:"
                f" {failure.message}); {self.tally.judged} verdicts of this run are kept.",
                mend,
            )

    async def _tell(self) -> None:
        told = time.monotonic()
        while True:
            await asyncio.sleep(FLUSH_EVERY)
            self.log.flush()
            if time.monotonic() - told >= TELL_EVERY:
                told = time.monotonic()
                self.say(f"judge: {self.tally.settled} settled, {self.tally.errors.total()} errors")
