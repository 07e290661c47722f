from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis import gallery, gallery_files
from analysis.gallery import Answer, Item
from analysis.marks import Marks
from analysis.words import targets
from lmmsteer.store import LocalStore

TARGETS = {"gender": targets("gender", ["man"], None, "deny")}


def rows(count: int) -> list[Item]:
    return [
        Item(
            f"{n:032x}",
            "m",
            ("people", "others")[n % 2],
            f"p{n}",
            "describe",
            "Say.",
            n % 3,
            {"gender": ("man", "woman")[n % 2]} if n else {},
            {"gender": n % 4},
            n / 100,
            f"set-{n // 4}" if n % 2 else None,
            [Answer("unsteered", "none", f"A man {n}"), Answer("steered", "gender", None)],
        )
        for n in range(count)
    ]


def said(path: Path, name: str) -> list:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"lmmsteer.{name}(")
    assert text.endswith(");\n")
    return json.loads(f"[{text.removeprefix(f'lmmsteer.{name}(')[:-3]}]")


def test_every_row_lies_in_its_chunk_and_in_every_column_of_the_index(store: LocalStore) -> None:
    items = rows(23)
    paths = gallery_files.write(store, "report/gallery", items, TARGETS, lambda item: item.image_id)
    assert len(paths) == 4
    (index,) = said(store.folder / paths[0], "index")
    assert index["count"] == 23
    columns = index["rows"]
    assert columns["image"] == [f"p{n}" for n in range(23)]
    assert columns["group"] == [item.group for item in items]
    assert columns["spread"] == [[n % 4 for n in range(23)]]
    assert [index["places"][n][1] for n in columns["place"]] == [item.dataset for item in items]
    assert index["places"][0][2] == [["unsteered", -1], ["steered", 0]]
    assert columns["labels"] == [[-1, *((n % 2) for n in range(1, 23))]]
    found = []
    for number, path in enumerate(paths[1:]):
        place, made, chunk = said(store.folder / path, "chunk")
        assert (place, made) == (number, index["made"])
        found += chunk
    assert found == [[f"p{n}", [["A ", ["man", [0]], f" {n}"], None]] for n in range(23)]


def test_another_text_is_another_gallery(store: LocalStore) -> None:
    made = set()
    for text in ("a", "b"):
        items = rows(1)
        items[0].answers[0] = Answer("unsteered", "none", text)
        paths = gallery_files.write(store, "g", items, TARGETS, lambda item: None)
        made.add(said(store.folder / paths[0], "index")[0]["made"])
    assert len(made) == 2


@pytest.mark.parametrize("text", ["</script><!--", "&lt;", "\u2028\u2029", "'\"\\", "é\n\t\x00"])
def test_no_text_can_end_a_script(text: str, store: LocalStore) -> None:
    items = rows(1)
    items[0].answers[0] = Answer("unsteered", "none", text)
    paths = gallery_files.write(store, "g", items, TARGETS, lambda item: text)
    written = (store.folder / paths[1]).read_text(encoding="utf-8")
    assert not set("<>&\u2028\u2029\x00") & set(written)
    assert said(store.folder / paths[1], "chunk")[2] == [[text, [[text], None]]]


def test_as_many_rows_are_compared_as_are_shown() -> None:
    assert gallery.compared(60) == 4_000
    assert gallery.compared(100_000) == 100_000


def test_pieces_put_together_are_the_text() -> None:
    text = "A man, the MAN’s man"
    found = Marks(TARGETS).pieces(text)
    assert "".join(p if isinstance(p, str) else p[0] for p in found) == text
    assert [p for p in found if not isinstance(p, str)] == [("man", [0]), ("man", [0])]
    assert Marks(TARGETS).pieces("") == []
