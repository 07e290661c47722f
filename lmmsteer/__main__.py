"""The command `lmmsteer`, and `python -m lmmsteer`: its verbs are the files of jobs/."""

from __future__ import annotations

import importlib
import sys

from lmmsteer.places import TOP


def cli() -> None:
    """Run the verb of the command line; what it is called with stands in jobs/__main__.py."""
    if str(TOP) not in sys.path:
        sys.path.insert(0, str(TOP))
    importlib.import_module("jobs.__main__").cli()


if __name__ == "__main__":
    cli()
