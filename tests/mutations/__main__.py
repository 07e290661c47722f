"""Plants the mistakes of bugs.py in a copy of the project, one at a time: tests must notice each.

python -m tests.mutations              all of them (a quarter of an hour on two cores)
python -m tests.mutations NAME ...     some of them

Exit code 1 where a mistake is not noticed, or a selection of tests fails without one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.mutations.bugs import BUGS, Bug

ROOT = Path(__file__).parents[2]
SECONDS = 300  # For a selection; a mistake may make a test wait for ever, which is noticed too.
LANES = 2
FAILED, LATE = 1, 124  # pytest's exit code for tests that failed, and ours for those not done.
WHERE = "import lmmsteer, sys; sys.exit(not lmmsteer.__file__.startswith(sys.argv[1]))"


class Copy:
    """The project in a folder of its own, which tests import and nobody else sees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",  # Two versions of a file may have one size and time.
        }
        if self._python("-c", WHERE, str(folder)) != 0:
            raise SystemExit(f"{folder} is not what Python imports lmmsteer from.")

    def with_bug(self, bug: Bug) -> int:
        """What pytest says of the bug's tests where the bug is in."""
        path = self.folder / bug.file
        text = path.read_text()
        path.write_text(text.replace(bug.old, bug.new))
        try:
            return self.tests(bug.tests)
        finally:
            path.write_text(text)

    def tests(self, selection: Iterable[str]) -> int:
        """pytest's exit code. The first failure ends it."""
        return self._python("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *selection)

    def _python(self, *arguments: str) -> int:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            return LATE


def main(names: list[str]) -> int:
    unknown = set(names) - {bug.name for bug in BUGS}
    if unknown:
        print(f"No such mistake: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    chosen = [bug for bug in BUGS if not names or bug.name in names]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for lane in range(LANES):
            copies.put(Copy(Path(folder) / f"{lane}"))

        def code_of(ask: Callable[[Copy], int]) -> tuple[int, float]:
            copy, began = copies.get(), time.monotonic()
            try:
                return ask(copy), time.monotonic() - began
            finally:
                copies.put(copy)

        def sound(test: str) -> bool:
            code, _ = code_of(lambda copy: copy.tests([test]))
            if code:
                print(f"FAILS WITHOUT A MISTAKE (exit {code}): {test}", flush=True)
            return not code

        def noticed(bug: Bug) -> bool:
            code, seconds = code_of(lambda copy: copy.with_bug(bug))
            said = {FAILED: "noticed", LATE: "noticed (a test never ended)"}
            what = said.get(code, f"NOT NOTICED (exit {code})")
            print(f"{what}: {bug.name} ({seconds:.0f} s)", flush=True)
            return code in said

        with ThreadPoolExecutor(LANES) as lanes:
            if not all(lanes.map(sound, sorted({test for bug in chosen for test in bug.tests}))):
                return 1
            found = list(lanes.map(noticed, chosen))
    minutes = (time.monotonic() - started) / 60
    print(f"{sum(found)} of {len(found)} mistakes were noticed in {minutes:.1f} minutes.")
    return 0 if all(found) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
