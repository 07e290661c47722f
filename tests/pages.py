"""python -m tests.pages FOLDER: the commands of docs/start.md and docs/verbs.md, as they stand.

Those about a model or pictures of one's own, which are not at hand, are left out; all others are
run in turn from FOLDER, which must be fresh, with the command that is installed beside this Python.
`view` is asked for its page and interrupted.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.test_docs import ROOT, commands

PAGES = ("docs/start.md", "docs/verbs.md")
OWN = "llava-1.5-7b"  # In every command about a model of one's own.


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    bin = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}"}
    for page in PAGES:
        for line in commands(ROOT / page):
            if not line.startswith(("lmmsteer ", "python -c ")) or OWN in line or "VERB" in line:
                continue
            started = time.monotonic()
            words = shlex.split(line)
            if words[1] == "view":
                viewed([word for word in words if word != "open=true"], folder, environment)
            else:
                subprocess.run(words, cwd=folder, env=environment, check=True)
            print(f"-- {time.monotonic() - started:4.0f} s  {line}", flush=True)


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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
