"""One decoding process as its parent sees it: started, asked with a deadline, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple, cast

from PIL import Image

from lmmsteer.errors import PictureError, RunFailed
from lmmsteer.models.picture_process import HEADER, LENGTH, NO_MEMORY, READY, REFUSED, SHOWN
from lmmsteer.models.pictures import MAX_PIXELS, one_line

MODULE = "lmmsteer.models.picture_process"
START_SECONDS = 120.0  # Python, NumPy and Pillow from a slow shared disk.
MAX_REFUSAL = 1 << 16  # Bytes.
KINDS = ("picture_broken", "picture_too_large")
TRY = f"See why: {sys.executable} -m {MODULE} 60 {3 << 30}"
# Credentials and the cluster's addresses lie in the environment; a decoder needs neither.
INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME")
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Pixels in memory that is kept from picture to picture: fresh pages cost as much as decoding.
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": f"{32 << 20}", "MALLOC_TRIM_THRESHOLD_": f"{64 << 20}"}


@dataclass(frozen=True)
class Limits:
    """What one picture may take: seconds until its process is killed, bytes of address space.

    The most pixels that are let in need up to 1.9 GiB and 6 s of a core, as a WebP with alpha.
    """

    seconds: float = 60.0
    memory: int = 3 << 30


class Answer(NamedTuple):
    """What came back: an outcome, whether it took half the memory, the picture or its reason."""

    outcome: int
    much: bool
    size: tuple[int, int]
    payload: bytes


class Child:
    """A decoding process and the pipes to it.

    worn: it is dead, or has needed half its memory, and is to be ended. doubtful: the last refusal
    may be due to what happened to the process before, or from outside.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.worn = self.doubtful = False
        self._late = self._used = False
        self._process = _started(limits)
        self._to = cast("IO[bytes]", self._process.stdin)
        self._from = cast("IO[bytes]", self._process.stdout)
        self._errors = cast("IO[bytes]", self._process.stderr)
        self._wait_until_ready()

    def decode(self, data: bytes) -> Image.Image:
        """The picture, or its PictureError."""
        used, self._used = self._used, True
        try:
            with self._deadline(self.limits.seconds):
                answer = self._ask(data)
        except (EOFError, BrokenPipeError) as error:
            self.worn = self.doubtful = True
            raise self._death() from error
        self.worn = answer.much or answer.outcome == NO_MEMORY or self._late
        self.doubtful = self.worn and used
        return self._picture(answer)

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Kill it, and leave no zombie and no open pipe."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._to, self._from):
            with contextlib.suppress(BrokenPipeError):  # What was written for it and not read.
                pipe.close()

    def _wait_until_ready(self) -> None:
        with self._deadline(START_SECONDS):
            # What a site prints when Python starts comes first.
            ready = any(line.endswith(READY) for line in iter(self._from.readline, b""))
        if ready:
            self._errors.close()
            return
        self._process.kill()
        said = one_line(self._errors.read().decode(errors="replace").rpartition("\n")[0][-200:])
        self._errors.close()
        self.end()
        raise RunFailed(
            f"The process that decodes pictures does not start: {said or 'killed'}.", TRY
        )

    def _ask(self, data: bytes) -> Answer:
        self._to.write(LENGTH.pack(len(data)))
        self._to.write(data)
        self._to.flush()
        outcome, much, width, height, length = HEADER.unpack(self._read(HEADER.size))
        if not _can_be(outcome, width * height, length):
            raise EOFError
        answer = Answer(outcome, much, (width, height), self._read(length))
        if outcome == REFUSED:
            _refusal(answer.payload)
        return answer

    def _read(self, length: int) -> bytes:
        data = self._from.read(length)
        if len(data) < length:
            raise EOFError
        return data

    @contextlib.contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        """Whoever waits for a killed process is let go: its pipes are at their end."""
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._late = True
        self._process.kill()

    def _death(self) -> PictureError:
        self._process.kill()
        if self._process.wait() == -signal.SIGXCPU or self._late:
            reason = f"not decoded within {self.limits.seconds:g} seconds"
            return PictureError("picture_timeout", reason)
        return PictureError("picture_decoder_died", "the process that decodes it dies of it")

    def _picture(self, answer: Answer) -> Image.Image:
        if answer.outcome == SHOWN:
            return Image.frombytes("RGB", answer.size, answer.payload)
        if answer.outcome == NO_MEMORY:
            reason = f"decoding it takes more than {self.limits.memory >> 20} MiB of memory"
            raise PictureError("picture_decoder_died", reason)
        raise _refusal(answer.payload)


def _started(limits: Limits) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-m", MODULE]
    try:
        return subprocess.Popen(
            [*command, str(limits.seconds), str(limits.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            cwd=os.sep,
            start_new_session=True,
        )
    except OSError as error:
        why = f"The process that decodes pictures does not start: {error.strerror}."
        raise RunFailed(why, TRY) from error


def _can_be(outcome: int, pixels: int, length: int) -> bool:
    """A process that a picture has taken over could claim anything."""
    if outcome == SHOWN:
        return 0 < pixels <= MAX_PIXELS and length == 3 * pixels
    return outcome in (REFUSED, NO_MEMORY) and length <= MAX_REFUSAL


def _refusal(payload: bytes) -> PictureError:
    try:
        kind, reason = json.loads(payload)
        return PictureError(KINDS[KINDS.index(kind)], one_line(str(reason)))
    except (ValueError, TypeError) as error:
        raise EOFError from error


def _environment() -> dict[str, str]:
    """What Python needs to start and to find this package, whatever way its parent found it."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    threads = dict.fromkeys(ONE_THREAD, "1")
    return {**kept, **threads, **KEPT_MEMORY, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
