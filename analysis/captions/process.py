"""Programs as their parent sees them: started, asked with a deadline, and ended in every case."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from analysis.captions import guard
from lmmsteer.errors import RunFailed

WITHOUT = "Or do without it: analysis.caption_metrics=[rouge_l]"


class Lines:
    """A program that answers lines on its standard input, one after the other, with lines."""

    def __init__(self, what: str, command: Sequence[str], folder: Path, seconds: float) -> None:
        self.what, self.seconds = what, seconds
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = _started(what, command, folder, self.errors)
        self.said: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, lines: Sequence[str], replies: int) -> list[str]:
        """Send the lines and wait for so many lines.

        Raises: RunFailed where the program ends, or says nothing for `seconds`.
        """
        speaker = threading.Thread(target=self._speak, args=(lines,), daemon=True)
        speaker.start()
        found = [self._reply() for _ in range(replies)]
        speaker.join(self.seconds)
        return found

    def _reply(self) -> str:
        try:
            line = self.said.get(timeout=self.seconds)
        except queue.Empty:
            raise failed(self.what, f"said nothing for {self.seconds:g} s") from None
        if line is None:
            raise failed(self.what, f"ended{_last_words(self.errors)}")
        return line

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in self.process.stdout:
                self.said.put(line.decode("utf-8", "replace").strip())
        self.said.put(None)

    def _speak(self, lines: Sequence[str]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(ValueError, OSError):  # It has ended, which `ask` will tell of.
            self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())
            self.process.stdin.flush()

    def close(self) -> None:
        end(self.process)
        self.errors.close()


def finished(
    what: str, command: Sequence[str], folder: Path, text: str, seconds: float
) -> tuple[str, str]:
    """Run a program over a text, to its end: what it wrote on standard output and error.

    Raises: RunFailed where it fails or takes longer than `seconds`.
    """
    with tempfile.TemporaryFile() as errors, _ended(_started(what, command, folder, errors)) as run:
        try:
            out, _ = run.communicate(text.encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            raise failed(what, f"did not end within {seconds:g} s") from None
        _refuse_code(what, run, errors)
        errors.seek(0)
        return out.decode("utf-8", "replace"), errors.read().decode("utf-8", "replace")


def guarded(what: str, command: Sequence[str], folder: Path, seconds: float) -> None:
    """Run a program that reads no standard input to its end; it ends if this process is killed.

    Raises: RunFailed where it fails or takes longer than `seconds`.
    """
    whole = [sys.executable, guard.__file__, *command]
    with (
        tempfile.TemporaryFile() as said,
        _ended(_started(what, whole, folder, said, stdout=said)) as run,
    ):
        try:
            run.wait(seconds)
        except subprocess.TimeoutExpired:
            raise failed(what, f"did not end within {seconds:g} s") from None
        _refuse_code(what, run, said)


def _refuse_code(what: str, run: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    if run.returncode:
        raise failed(what, f"ended with code {run.returncode}{_last_words(said)}")


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and what it has started, and take its pipes away."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def failed(what: str, why: str) -> RunFailed:
    return RunFailed(
        f"{what} {why}: no score was written.",
        f"Try again, with more time: analysis.java_seconds=SECONDS\n{WITHOUT}",
    )


def _started(
    what: str,
    command: Sequence[str],
    folder: Path,
    errors: IO[bytes],
    stdout: IO[bytes] | int = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=errors,
            start_new_session=True,
        )
    except OSError as error:
        raise failed(what, f"does not start ({error.strerror})") from error


def _last_words(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    why = [line for line in lines if not line.startswith("\t")]
    return f", saying: {why[-1].strip()[:200]}" if why else ""
