"""status: each cell of an output folder, from the folder alone, while it runs or after."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from jobs import explain, status_text
from lmmsteer import config as configs
from lmmsteer.config import StatusConfig
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.logs import Logs
from lmmsteer.fleet.overview import look
from lmmsteer.fleet.standing import Ledger
from lmmsteer.store import Store, open_store

EVERY = 5.0  # Seconds between two looks of --watch.

Look = dict[str, Any]


def run(members: list[Member]) -> int:
    """Exit code 0 where every cell is complete within its failed share, 1 where not."""
    if members[0].config is None:
        raise explain.sentence(members[0].error or ValueError("no config"), "status")
    asked = configs.typed(members[0].config, StatusConfig, "")
    every = _every(asked.watch)
    looks = _looks(open_store(asked.out), asked.max_failed_share)
    if every is not None:
        return _watch(looks, every, asked.json)
    found = looks()
    if asked.json:
        print(json.dumps(found, indent=1))
    elif sys.stdout.isatty():
        Console(highlight=False).print(_colored(status_text.lines(found)), soft_wrap=True)
    else:
        print("\n".join(status_text.lines(found)))
    return _code(found)


def _every(watch: Any) -> float | None:
    """Seconds between two looks; None for one look alone."""
    if watch is None or watch is False:
        return None
    if watch is True:
        return EVERY
    if isinstance(watch, (int, float)) and watch > 0:
        return float(watch)
    raise LmmsteerError(
        f"watch={watch} is neither true nor a number of seconds.", "For example --watch or watch=10"
    )


def _looks(store: Store, share: float | None) -> Callable[[], Look]:
    """What looks at the folder, again and again; what cannot change is read once."""
    ledger, logs = Ledger(store), Logs(store)

    def once() -> Look:
        standings = ledger.standings(share)
        if not standings:
            raise LmmsteerError(
                f"{store.root} holds no cell that was started.", "Start one with: lmmsteer generate"
            )
        return {"out": store.root, **look(standings, logs.read(), time.time())}

    return once


def _code(found: Look) -> int:
    return 0 if all(cell["state"] == "complete" for cell in found["cells"]) else 1


def _watch(looks: Callable[[], Look], every: float, as_json: bool) -> int:
    """Look until nothing is left to do, or Ctrl-C; the exit code is the last look's."""
    code = 1
    with _shown(as_json) as show:
        try:
            while True:
                found = looks()
                code = _code(found)
                show(found)
                if found["total"]["rows"] and not found["total"]["rows_left"]:
                    return code
                time.sleep(every)
        except KeyboardInterrupt:
            return code


@contextmanager
def _shown(as_json: bool) -> Iterator[Callable[[Look], None]]:
    """What shows one look after the other: JSON lines, one place of a terminal, or blocks."""
    if as_json or not sys.stdout.isatty():
        yield lambda found: print(_block(found, as_json), flush=True)
        return
    with Live(auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda found: live.update(_cut(status_text.screen(found)), refresh=True)


def _block(found: Look, as_json: bool) -> str:
    if as_json:
        return json.dumps(found)
    return "\n".join([time.strftime("%Y-%m-%d %H:%M:%S"), *status_text.lines(found), ""])


def _cut(lines: list[str]) -> Text:
    """Lines that end where the terminal does, so that each stays one."""
    text = _colored(lines)
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _colored(lines: list[str]) -> Text:
    text = Text("\n".join(lines))
    text.highlight_regex(r"(?<!in)complete,", "green")
    text.highlight_regex(r"\b(failed|damaged)[,:]", "red")
    return text
