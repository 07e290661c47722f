"""What the README and docs/ tell people to type is what the programs take; links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra

from jobs.__main__ import VERBS, spelled
from lmmsteer.config import GenerateConfig
from lmmsteer.fleet import resolve
from lmmsteer.fleet.launcher import PlanLauncher
from tests import sweeps

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "lmmsteer/demo/README.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES += sorted((ROOT / "conf").glob("experiment/*.yaml"))
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PLACE = re.compile(r"^(?:analysis|conf|deploy|docs|jobs|lmmsteer|tests)/[\w./-]+\.\w+$")
COMPOSED = {"manifest", "plan", "fit", "generate"}


def commands(page: Path) -> list[str]:
    """Every command of a page, in blocks and in the text, continued lines in one."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [
        line.lstrip("#$ ") for line in text.splitlines() if re.match(r"^(?: {4}|#   |\$ )", line)
    ]
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines += [line.strip() for block in fenced for line in block.splitlines()]
    lines += SPAN.findall(text)
    starts = ("lmmsteer ", "make ", "python -m ", "python -c ")
    found = (re.split(" +# ", line)[0].strip() for line in lines if line.startswith(starts))
    return list(dict.fromkeys(found))


def those(start: str) -> list[tuple[str, str]]:
    """Pages with the commands that begin so, each command once."""
    found = [
        (line, page.relative_to(ROOT).as_posix())
        for page in PAGES
        for line in commands(page)
        if line.startswith(start)
    ]
    return [(page, line) for line, page in dict(reversed(found)).items()]


LMMSTEER = [
    (page, line)
    for page, line in those("lmmsteer ")
    if not re.match(r"lmmsteer (VERB|<|-)", line) and not re.search(r"=(NAME|A)\b|--cfg", line)
]


class First(PlanLauncher):
    """The first members of a sweep; tests/fleet/test_grids.py composes all of an experiment."""

    def launch(self, job_overrides: Any, initial_job_idx: int) -> Any:
        return super().launch(job_overrides[:2], initial_job_idx)


@pytest.fixture(scope="module")
def hydra() -> Iterator[Hydra]:
    with sweeps.started() as found:
        yield found


@pytest.mark.parametrize(("page", "line"), LMMSTEER, ids=lambda text: text[:80])
def test_a_command_of_the_docs_composes(page: str, line: str, hydra: Hydra) -> None:
    _, verb, *words = shlex.split(line)
    assert verb in VERBS, page
    if "--help" in words:
        return
    plain = [spelled(verb, word) for word in words if word not in ("-m", "...", "model=...")]
    plain += [] if any(word.startswith("out=") for word in plain) else ["out=runs/x"]
    seen = sweeps.members(hydra, verb.replace("-", "_"), plain, First)
    assert seen
    for member in seen:
        assert member.error is None, f"{page}: {line}: {member.error}"
        if verb in COMPOSED and member.config is not None:
            known = GenerateConfig.__dataclass_fields__
            assert resolve.typed_config({k: v for k, v in member.config.items() if k in known})


@pytest.mark.parametrize(("page", "line"), those("make "), ids=lambda text: text[:80])
def test_a_target_of_the_docs_is_in_the_makefile(page: str, line: str) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [word for word in shlex.split(line)[1:] if "=" not in word]
    assert set(named) <= set(targets), f"{page}: {line}"


@pytest.mark.parametrize(("page", "line"), those("python -m "), ids=lambda text: text[:80])
def test_a_module_of_the_docs_is_there(page: str, line: str) -> None:
    name = shlex.split(line)[2]
    assert importlib.util.find_spec(name) is not None, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_and_files_of_the_docs_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        if "://" in link or not (target or anchor):
            continue
        file = (page.parent / target) if target else page
        assert file.exists(), link
        if anchor and file.suffix == ".md":
            heads = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in slugs, link
    for span in SPAN.findall(text):
        if PLACE.match(span) and not re.search(r"[A-Z]{3}", span.replace("README", "")):
            assert (ROOT / span).exists(), span


def test_no_text_of_ours_holds_what_a_merge_has_left() -> None:
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        assert not re.search(r"^(<{7} |>{7} |={7}$)", page.read_text("utf-8"), re.MULTILINE), page
