"""The gallery as files that a page opened from disk can load: an index, and chunks of rows.

`gallery/index.js` calls `lmmsteer.index(...)` with what every row is found, filtered and sorted by,
a column each; `gallery/00000.js` calls `lmmsteer.chunk(...)` with ten rows' answers and pictures.
They are scripts because a page from disk may load those and nothing else. All text is JSON data
that the page shows as text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from analysis.gallery import Item
from analysis.marks import Marks
from analysis.words import Targets
from lmmsteer.schema import LABELS
from lmmsteer.store import Store

CHUNK = 10  # rows in a file: a page of rows that are scattered loads as many files as rows
PAGE = 20  # rows that are shown at a time
Place = tuple[str, str, list[tuple[str, int]]]  # name, data set, method and attribute's place
Picture = Callable[[Item], str | None]  # a data URI


def write(
    store: Store,
    folder: str,
    items: Sequence[Item],
    targets: Mapping[str, Targets],
    picture: Picture,
) -> list[str]:
    """Write chunks and index; what is left of a longer gallery is emptied. Returns the paths."""
    index = _index(items, list(targets))
    made, marks = _made(index, items), Marks(targets)
    files = [f"{folder}/{number:05d}.js" for number in range(-(-len(items) // CHUNK))]
    for number, path in enumerate(files):
        rows = [_row(i, marks, picture) for i in items[number * CHUNK : (number + 1) * CHUNK]]
        _call(store, path, "chunk", number, made, rows)
    last = f"{folder}/index.js"
    _call(store, last, "index", {"made": made, **index})
    for path in sorted(set(store.list(folder)) - {last, *files}):
        store.write_bytes(path, b"", overwrite=True)
    return [last, *files]


def prompts(items: Iterable[Item]) -> list[tuple[str, str]]:
    """Id and text of every prompt, in order."""
    return sorted({(item.prompt_id, item.prompt) for item in items})


def places(items: Iterable[Item], attributes: Sequence[str]) -> list[Place]:
    """Every model and data set that has rows."""
    found: dict[str, Place] = {}
    for item in items:
        if item.place not in found:
            shown = [
                (answer.method, place_of(answer.attribute, attributes)) for answer in item.answers
            ]
            found[item.place] = (item.place, item.dataset, shown)
    return list(found.values())


def place_of(attribute: str, attributes: Sequence[str]) -> int:
    """-1 for an answer that is shown for every attribute."""
    return attributes.index(attribute) if attribute in attributes else -1


def labels(items: Sequence[Item]) -> dict[str, list[str]]:
    """The labels that there are, each with its values in order."""
    values = {name: {i.labels[name] for i in items if name in i.labels} for name in LABELS}
    return {name: sorted(found) for name, found in values.items() if found}


def _index(items: Sequence[Item], attributes: list[str]) -> dict[str, Any]:
    known, asked, shown = labels(items), prompts(items), places(items, attributes)
    ask = {key: number for number, key in enumerate(asked)}
    where = {place[0]: number for number, place in enumerate(shown)}
    rows = {
        "prompt": [ask[item.prompt_id, item.prompt] for item in items],
        "place": [where[item.place] for item in items],
        "seed": [item.seed for item in items],
        "image": [item.image_id for item in items],
        "group": [item.group for item in items],
        "words": [round(item.words, 4) for item in items],
        "spread": [[item.spread.get(name, 0) for item in items] for name in attributes],
        "labels": [_coded(items, name, values) for name, values in known.items()],
    }
    return {
        "chunk": CHUNK,
        "page": PAGE,
        "count": len(items),
        "attributes": [name.replace("_", " ") for name in attributes],
        "prompts": asked,
        "places": shown,
        "labels": known,
        "rows": rows,
    }


def _coded(items: Sequence[Item], name: str, values: Sequence[str]) -> list[int]:
    """The place of each row's value, -1 where it has none."""
    places = {value: place for place, value in enumerate(values)}
    return [places.get(item.labels.get(name, ""), -1) for item in items]


def _row(item: Item, marks: Marks, picture: Picture) -> list[Any]:
    answers = [a.text if a.text is None else marks.pieces(a.text) for a in item.answers]
    return [picture(item), answers]


def _made(index: Mapping[str, Any], items: Iterable[Item]) -> str:
    """A name for what the gallery shows, so that a page does not mix one with another."""
    digest = hashlib.sha256(json.dumps(index).encode())
    for item in items:
        digest.update(json.dumps([answer.text for answer in item.answers]).encode())
    return digest.hexdigest()[:16]


def _call(store: Store, path: str, name: str, *given: Any) -> None:
    text = f"lmmsteer.{name}({', '.join(map(_script, given))});\n"
    store.write_bytes(path, text.encode(), overwrite=True)


def _script(value: Any) -> str:
    """JSON that stays data wherever a script may stand."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
