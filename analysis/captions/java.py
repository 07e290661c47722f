"""The Java that runs METEOR and SPICE, and their jars: found, or what installs them is named."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from analysis.captions.process import WITHOUT, finished
from lmmsteer.errors import LmmsteerError

UTF8 = "-Dfile.encoding=UTF-8"


@dataclass(frozen=True)
class Java:
    """The command `java`, and the seconds that a program may take for a reply."""

    command: str = "java"
    seconds: float = 600.0

    def path(self, what: str) -> str:
        """Raises: LmmsteerError where there is no such command."""
        found = shutil.which(self.command)
        if found is None:
            raise LmmsteerError(
                f"analysis.java={self.command} is no command here, and {what} needs Java.",
                f"Install one: apt-get install openjdk-17-jre-headless\n{WITHOUT}",
            )
        return found

    def version(self, what: str) -> int:
        """The number before the first point, 8 for 1.8."""
        command = [self.path(what), "-version"]
        told = "".join(finished(f"{self.command} -version", command, Path.cwd(), "", self.seconds))
        found = re.search(r'version "(?:1\.)?(\d+)', told)
        if found is None:
            raise LmmsteerError(
                f"{self.command} -version does not say what it is: {told.strip()[:80]!r}.",
                f"Name a Java: analysis.java=PATH\n{WITHOUT}",
            )
        return int(found[1])


def jar(key: str, given: str | None, within: str, what: str) -> Path:
    """A program's jar: the one that is given, else pycocoevalcap's where that is installed.

    Raises: LmmsteerError where there is none.
    """
    package = util.find_spec("pycocoevalcap")
    places = package.submodule_search_locations if package else None
    path = Path(given) if given else Path(places[0]) / within if places else None
    if path is not None and path.is_file():
        return path.resolve()
    said = f"analysis.{key}={given} is no file." if given else f"{what} has no jar here."
    raise LmmsteerError(
        said,
        "Install it: pip install --no-deps pycocoevalcap,"
        f" or name it: analysis.{key}=FILE\n{WITHOUT}",
    )
