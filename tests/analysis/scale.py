"""python -m tests.analysis.scale ROWS [FOLDER]: a study of so many answers, made up and analysed.

Answers of some 120 words (of real prose) in the real layout: cells of at most 140,000 rows,
fifteen rows a picture, parts of 3,000 rows. Prints what mentions, sentiment, occupation and tables
took.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import analysis
from analysis import Analysis, report, tables
from lmmsteer.schema import IMAGES, RESPONSES, ROWS, row_id
from lmmsteer.store import LocalStore
from tests.analysis.vader import prose

CELL, PART, EACH, WORDS = 140_070, 3_000, 15, 120
RACES = ("Asian", "Black", "Indian", "Latino", "Middle Eastern", "White")
GENDERS, JOBS = ("man", "woman"), ("doctor", "chef", "real estate agent", "painter")
ALL = ("mentions", "sentiment", "occupation")


def write(folder: Path, rows: int) -> int:
    """Cells, each of the same pictures; how many answers there are."""
    size = min(CELL, rows)
    cells = max(1, round(rows / size))
    asked = list(requests(size))
    base = folder / "manifest/dataset=faces"
    for number, part in enumerate(pieces(asked)):
        put(base / f"rows/part-{number:05d}.parquet", part, ROWS)
        images = {row["image_id"]: row for row in part}
        shown = [dict.fromkeys(IMAGES.names) | {"image_id": i} for i in images]
        put(base / f"images/part-{number:05d}.parquet", shown, IMAGES)
    totals = {"rows": len(asked), "images": len({row["image_id"] for row in asked})}
    (base / "_manifest.json").write_text(json.dumps(totals))
    words = prose()
    for number in range(cells):
        method, attribute = ("unsteered", "none") if not number else (f"method{number}", "gender")
        cell = f"responses/model=m/method={method}/attribute={attribute}/dataset=faces"
        chance = random.Random(number)
        for place, part in enumerate(pieces(asked)):
            said = [answer(row, words, chance) for row in part]
            put(folder / cell / f"part-{place:05d}.parquet", said, RESPONSES)
    return cells * len(asked)


def requests(rows: int) -> Iterator[dict[str, object]]:
    for number in range(rows):
        picture, own = divmod(number, EACH)
        prompt, seed = f"p{own % 5}", own // 5
        yield {
            **dict.fromkeys(ROWS.names),
            "row_id": row_id(f"i{picture}", prompt, "What?", seed),
            "image_id": f"i{picture:07d}",
            "prompt_id": prompt,
            "prompt": "What?",
            "seed": seed,
            "race": RACES[picture % 6],
            "gender": GENDERS[picture % 2],
            "occupation": JOBS[picture % 4],
        }


def answer(row: dict[str, object], words: list[str], chance: random.Random) -> dict[str, object]:
    start = chance.randrange(len(words) - 2 * WORDS)
    length = chance.randint(WORDS // 2, 3 * WORDS // 2)
    own = f"The {row['gender']} is a {row['occupation']}. " if chance.random() < 0.5 else ""
    return {
        **{name: row.get(name) for name in RESPONSES.names},
        "text": own + " ".join(words[start : start + length]),
        "new_tokens": length,
        "finish_reason": "eos",
    }


def pieces(rows: list[dict[str, object]]) -> Iterator[list[dict[str, object]]]:
    return (rows[at : at + PART] for at in range(0, len(rows), PART))


def put(path: Path, rows: list[dict[str, object]], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    loose = pa.schema([field.with_nullable(True) for field in schema])
    pq.write_table(pa.Table.from_pylist(rows, loose), path)


def timed(what: str, do: Callable[[], object]) -> float:
    wall, used = time.monotonic(), cpu()
    do()
    took = time.monotonic() - wall
    print(f"{what}: {took:.1f} s, {cpu() - used:.1f} s of processors", flush=True)
    return took


def cpu() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in both)


def peak(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 2**10


def main() -> None:
    rows = int(sys.argv[1])
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp(prefix="analyses-"))
    store = LocalStore(folder)
    made = 0 if any(folder.glob("responses/*")) else write(folder, rows)
    print(f"{made:,} answers written" if made else "answers are there", flush=True)
    took = sum(
        timed(name, lambda name=name: analysis.run(store, [name], Analysis(), lambda line: None))
        for name in ALL
    )
    took += timed("tables", lambda: tables.build(report.read_scores(store).tables))
    here = peak(resource.RUSAGE_SELF)
    print(f"all: {took / 60:.1f} min; peak {here:.0f} MiB, without the scoring processes")
    if len(sys.argv) < 3:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
