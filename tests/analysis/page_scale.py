"""How long the page of many pictures takes to write, and to answer a reader in a real browser.

    python -m tests.analysis.page_scale PICTURES [METHODS] [FOLDER]

Every picture with one prompt is a row of the gallery. Printed: the seconds of `report`, its peak
memory and the size of what it wrote; then, from a page opened from disk, the milliseconds from an
action until the rows that it shows are there, the median of five.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import analysis
from analysis import Analysis, Report, report
from lmmsteer.store import LocalStore
from tests import browser
from tests.analysis import build

SETTLED = "document.querySelector('#items').getAttribute('aria-busy') === 'false'"
LONG = " ".join(["The room is bright and there is a window behind the person."] * 8)


def main(pictures: int, methods: int, folder: Path) -> None:
    store = LocalStore(folder)
    if not store.list("responses"):
        _build(folder, pictures, methods)
    if not store.exists("scores/sentiment.parquet"):
        few = Analysis(bootstrap=50, permutations=50)
        analysis.run(store, ["mentions", "occupation", "sentiment"], few)
    begun = time.perf_counter()
    report.write(store, Report(gallery=pictures))
    took = time.perf_counter() - begun
    files = [path for path in (folder / "report").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 2**20
    index = (folder / "report/gallery/index.js").stat().st_size / 2**20
    page = (folder / "report/report.html").stat().st_size / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"report: {took:.1f} s, peak {peak:.2f} GiB, {len(files)} files, {size:.1f} MiB")
    print(f"of these the page {page:.2f} MiB, the index {index:.2f} MiB")
    _read((folder / "report/report.html").as_uri())


def _build(folder: Path, pictures: int, methods: int) -> None:
    output = build.Output(folder, part_rows=1000)
    output.manifest(build.people(pictures, prompts={"describe": build.PROMPTS["describe"]}))
    plain = {"gender": 0.65, "age": 0.55, "body_type": 0.5, "skin_tone": 0.45}
    for number in range(methods):
        name = f"method_{number}" if number else "unsteered"
        say = build.story({key: rate * (1 - number / methods) for key, rate in plain.items()})
        output.cell(name, "none", lambda row, rng, say=say: f"{say(row, rng)} {LONG}")


def _read(address: str) -> None:
    with browser.opened() as window:
        begun = time.perf_counter()
        window.open(address)
        window.wait(SETTLED)
        print(f"open: {1000 * (time.perf_counter() - begun):.0f} ms")
        for name, act in ACTIONS.items():
            took = [_took(window, *act(turn)) for turn in range(5)]
            print(f"{name}: {statistics.median(took):.0f} ms")
        heap = window.run("return performance.memory.usedJSHeapSize") / 2**20
        nodes = window.run("return document.querySelectorAll('#items *').length")
        print(f"heap {heap:.0f} MiB, {nodes} elements in the gallery")
        print(f"console: {window.console() or 'nothing'}")


def _took(window: browser.Browser, script: str, *given: object) -> float:
    """Milliseconds of the browser's own clock from an action until its rows are drawn."""
    measured = f"""
        const begun = performance.now();
        {script}
        return new Promise(done => {{
          const drawn = () => done(performance.now() - begun);
          const look = () => {SETTLED} ? requestAnimationFrame(drawn) : setTimeout(look, 1);
          look();
        }});"""
    return window.run(measured, *given)


def _choose(name: str, options: tuple[int, ...]) -> Callable[[int], tuple[str, int]]:
    script = f"""const field = document.querySelector('#filters [name={name}]');
        field.selectedIndex = arguments[0];
        field.dispatchEvent(new Event("input", {{bubbles: true}}));"""
    return lambda turn: (script, options[turn % len(options)])


ACTIONS: dict[str, Callable[[int], tuple]] = {
    "next page": lambda turn: ("document.querySelector(\".pager [data-go='1']\").click();",),
    "filter by occupation": _choose("occupation", (1, 2, 3, 4, 0)),
    "sort by all words, by target words": _choose("sort", (1, 0)),
    "another attribute": _choose("attribute", (1, 2, 3, 0)),
    "find a picture": lambda turn: (
        """const field = document.querySelector('#filters [name=find]');
        field.value = arguments[0]; field.dispatchEvent(new Event("input", {bubbles: true}));""",
        f"p{turn + 100}",
    ),
}


if __name__ == "__main__":
    asked = sys.argv[1:]
    with tempfile.TemporaryDirectory() as made:
        where = Path(asked[2]) if asked[2:] else Path(made)
        main(int(asked[0]), int(asked[1]) if asked[1:] else 8, where)
