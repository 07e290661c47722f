import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmmsteer.datasets import open_dataset
from lmmsteer.datasets.folder import Folder
from lmmsteer.errors import LmmsteerError
from tests.conftest import png
from tests.datasets.rights import unprivileged

ROWS = [
    {"file_name": "b.png", "gender": "woman", "occupation": "nurse", "note": "x"},
    {"file_name": "sub/a.png", "gender": "man", "occupation": "", "note": "y"},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for row in ROWS:
        (tmp_path / row["file_name"]).write_bytes(png())
    return tmp_path


def test_bare_pictures_are_found_at_any_depth_and_ordered_by_name(root: Path) -> None:
    (root / "notes.txt").write_text("no picture")
    samples = list(Folder("f", str(root)).samples())
    assert [s.image_id for s in samples] == ["b.png", "sub/a.png"]
    assert samples[0].read().bytes == png()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_gives_labels_order_and_extra_columns(kind: str, root: Path) -> None:
    path = root / f"metadata.{kind}"
    if kind == "csv":
        lines = [",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)]
        path.write_text("\n".join(lines), encoding="utf-8-sig")
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    first, second = Folder("f", str(root)).samples()
    assert first.labels == {"gender": "woman", "occupation": "nurse"}
    assert first.extra == {"note": "x"}
    assert second.image_id == "sub/a.png"
    assert second.labels == {"gender": "man"}


def test_an_image_id_column_replaces_the_file_name(root: Path) -> None:
    (root / "metadata.csv").write_text("file_name,image_id,group_id\nb.png,eval-1,set-1\n")
    (sample,) = Folder("f", str(root)).samples()
    assert (sample.image_id, sample.group_id) == ("eval-1", "set-1")
    assert sample.read().image_id == "eval-1"


def test_a_picture_that_is_not_there_is_a_reason_not_an_exception(root: Path) -> None:
    (root / "metadata.csv").write_text("file_name\nnone.png\n../secret.png\n")
    (root.parent / "secret.png").write_bytes(png())
    missing, outside = (sample.read() for sample in Folder("f", str(root)).samples())
    assert missing.error_kind == "picture_missing"
    assert outside.error_kind == "picture_outside"
    assert outside.bytes is None


def test_a_file_whose_name_cannot_be_an_id_is_refused(root: Path) -> None:
    for name, says in ((b"bell\x07.png", "a control character"), (b"\xff.png", "half of a")):
        path = os.path.join(os.fsencode(root), name)
        with open(path, "wb") as file:
            file.write(png())
        with pytest.raises(LmmsteerError, match=f"cannot be an id: .* holds {says}"):
            Folder("f", str(root)).samples()
        os.unlink(path)


def test_a_folder_that_cannot_be_listed_is_refused_and_not_left_out(public: Path) -> None:
    (public / "locked").mkdir(mode=0)
    (public / "a.png").write_bytes(png())
    with unprivileged(), pytest.raises(LmmsteerError, match="locked cannot be listed: Permission"):
        Folder("f", str(public)).samples()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda p: p.symlink_to("nowhere")])
def test_a_metadata_file_that_is_none_is_not_passed_over(make: Any, root: Path) -> None:
    make(root / "metadata.csv")
    with pytest.raises(LmmsteerError, match=r"metadata\.csv cannot be read"):
        Folder("f", str(root)).samples()


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LmmsteerError, match="is not a folder"):
        Folder("f", str(tmp_path / "none")).samples()


def test_an_unknown_loader_names_the_known_ones() -> None:
    with pytest.raises(LmmsteerError) as caught:
        open_dataset({"loader": "nope", "name": "x"})
    assert "folder" in caught.value.mend


def test_a_misspelt_key_of_a_data_set_is_named() -> None:
    with pytest.raises(LmmsteerError, match=r"dataset\.pth is not a key"):
        open_dataset({"loader": "folder", "name": "x", "pth": "/y"})
