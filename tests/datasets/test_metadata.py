"""Metadata files as people damage them: one sentence that names the line."""

import json
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmmsteer import manifest
from lmmsteer.datasets.folder import Folder
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import LocalStore
from tests.conftest import png

CSV = "file_name,gender\na.png,woman\nb.png,man\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(png())
    return tmp_path


def refusal(root: Path, data: str | bytes, kind: str = "csv") -> str:
    path = root / f"metadata.{kind}"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(LmmsteerError) as caught:
        Folder("f", str(root)).samples()
    what = caught.value.what
    assert what.startswith(f"{path} cannot be read: ")
    assert "\n" not in what
    return what.removeprefix(f"{path} cannot be read: ")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("name,gender\na.png,woman\n", "line 2: no file_name, which is the picture's path"),
        ("file_name;gender\na.png;woman\n", "line 2: no file_name"),
        ("file_name,gender\na.png,woman\n,man\n", "line 3: no file_name"),
        ("file_name,gender\na.png,woman\nb.png\n", "line 3: 1 fields, and 2 columns."),
        ("file_name,gender\na.png,woman, tall\n", "line 2: 3 fields, and 2 columns."),
        ('file_name,note\na.png,"two\nlines"\nb.png,x,y\n', "line 4: 3 fields, and 2 columns."),
        ('file_name,note\na.png,x\nb.png,"cut o', "line 3: unexpected end of data."),
        ('file_name,note\na.png,"x"y\n', "line 2: ',' expected after '\"'."),
        ("file_name,gender,gender\na.png,x,y\n", "line 1: 'gender' stands twice."),
        (CSV + "a.png,man\n", "line 4: the id 'a.png' stands in line 2 already."),
        (
            "file_name,image_id\na.png,x\n\nb.png,x\n",
            "line 4: the id 'x' stands in line 2 already.",
        ),
        (
            "file_name,image_id\na.png,b.png\nb.png,\n",
            "line 3: the id 'b.png' stands in line 2 already.",
        ),
        (b"file_name,gender\na.png,woman\nb.png,m\xe4n\n", "line 3: byte 8 is 0xe4, not UTF-8."),
        (b"\xef\xbb\xbffile_name\n\xff.png\n", "line 2: byte 1 is 0xff, not UTF-8."),
        (b"file_name\na.png\nb\0.png\n", "line 3: byte 2 is null."),
        (CSV.encode("utf-16"), "it is UTF-16, not UTF-8."),
        (
            "file_name,image_id\na.png,bell\x07\n",
            "line 2: 'bell\\x07' holds a control character (U+0007).",
        ),
        (
            'file_name,group_id\na.png,"two\nlines"\n',
            "line 2: 'two\\nlines' holds a control character (U+000A).",
        ),
    ],
)
def test_a_damaged_csv_names_the_line(data: str | bytes, says: str, root: Path) -> None:
    assert refusal(root, data).startswith(says)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ('{"file_name": "a.png"}\n{"file_na', "line 2, column 2: Unterminated string"),
        ('{"file_name": "a.png"}\n["b.png"]\n', "line 2: no JSON object."),
        ('{"file_name": "a.png"}\n3\n', "line 2: no JSON object."),
        ('{"gender": "man"}\n', "line 1: no file_name"),
        ('{"file_name": "a.png", "age": 1, "age": 2}\n', "line 1: 'age' stands twice."),
        (
            '{"file_name": "a.png"}\n\n{"file_name": "a.png"}\n',
            "line 3: the id 'a.png' stands in line 1 already.",
        ),
        (
            '{"file_name": "a.png", "image_id": "\\ud800"}',
            "line 1: '\\ud800' holds half of a surrogate pair (U+D800).",
        ),
        ('{"file_name": "a.png", "note": "\\udfff"}', "line 1: '\\udfff' holds half"),
        ('{"file_name": "a.png", "note": "\\u0000"}', "line 1: '\\x00' holds a control character"),
        ('{"file_name": "a.png", "n": ' + "[" * 100_000, "line 1: nested too deeply."),
        ('{"file_name": "a.png", "n": ' + "9" * 5000 + "}", "line 1: Exceeds the limit"),
        (b'{"file_name": "a.png"}\n{"note": "\xff"}\n', "line 2: byte 11 is 0xff, not UTF-8."),
    ],
)
def test_damaged_json_lines_name_the_line(data: str | bytes, says: str, root: Path) -> None:
    assert refusal(root, data, "jsonl").startswith(says)


def parquet(path: Path, *rows: dict[str, object]) -> bytes:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path.read_bytes()


def test_damaged_parquet_is_told_in_one_sentence(root: Path, tmp_path: Path) -> None:
    data = parquet(tmp_path / "x", {"file_name": "a.png"}, {"file_name": "a.png"})
    for cut in (0, 3, 10, len(data) // 2, len(data) - 1):
        assert refusal(root, data[:cut], "parquet")
    assert refusal(root, data, "parquet") == "row 2: the id 'a.png' stands in row 1 already."
    data = parquet(tmp_path / "x", {"file_name": "a.png"}, {"file_name": None})
    assert refusal(root, data, "parquet").startswith("row 2: no file_name")
    twice = pa.Table.from_arrays([pa.array(["a.png"])] * 2, names=["file_name"] * 2)
    pq.write_table(twice, tmp_path / "x")
    says = "'file_name' stands twice."
    assert refusal(root, (tmp_path / "x").read_bytes(), "parquet") == says


@pytest.mark.parametrize("place", range(4, 40))
def test_parquet_with_a_damaged_byte_is_refused_or_read_never_a_traceback(
    place: int, root: Path, tmp_path: Path
) -> None:
    data = bytearray(parquet(tmp_path / "x", *({"file_name": f"{n}.png"} for n in range(9))))
    for at in range(place, len(data), 36):
        damaged = bytes(data[:at]) + bytes((data[at] ^ 0x55,)) + bytes(data[at + 1 :])
        (root / "metadata.parquet").write_bytes(damaged)
        with suppress(LmmsteerError):
            Folder("f", str(root)).samples()


def test_order_blank_lines_line_ends_and_byte_order_marks_do_not_matter(root: Path) -> None:
    for text in (
        CSV,
        "\ufeff" + CSV,
        CSV.replace("\n", "\r\n"),
        CSV.replace("\n", "\n\n"),
        CSV.replace("\n", "\r"),
        CSV.rstrip(),
    ):
        (root / "metadata.csv").write_bytes(text.encode())
        found = [(s.image_id, s.labels) for s in Folder("f", str(root)).samples()]
        assert found == [("a.png", {"gender": "woman"}), ("b.png", {"gender": "man"})]
    (root / "metadata.csv").write_text("gender,file_name\nman,b.png\nwoman,a.png\n")
    assert [s.image_id for s in Folder("f", str(root)).samples()] == ["b.png", "a.png"]


def test_separators_of_unicode_end_no_json_line(root: Path) -> None:
    row = {"file_name": "a.png", "note": "one\u2028two\x85three"}
    (root / "metadata.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    (sample,) = Folder("f", str(root)).samples()
    assert sample.extra == {"note": "one\u2028two\x85three"}


def test_nested_values_are_kept_as_json(root: Path) -> None:
    (root / "metadata.jsonl").write_text('{"file_name": "a.png", "box": {"é": [1, null]}}')
    (sample,) = Folder("f", str(root)).samples()
    assert sample.extra == {"box": '{"é": [1, null]}'}


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "gender=robot"
    folder.mkdir()
    parquet(folder / "metadata.parquet", {"file_name": "a.png"})
    (sample,) = Folder("f", str(folder)).samples()
    assert (sample.labels, sample.extra) == ({}, {})


def test_paths_long_texts_and_odd_letters_as_ids_reach_the_manifest_unchanged(
    root: Path, tmp_path: Path
) -> None:
    ids = ["../../etc/passwd", "<b>&'\"", "a=1/b=2", "名前 \u202e\u00a0", "x" * 100_000]
    lines = [json.dumps({"file_name": "a.png", "image_id": i, "note": "n" * 10**6}) for i in ids]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    store = LocalStore(tmp_path / "out")
    asked = manifest.identity({"name": "f"}, {"p": "w" * 10**6}, [0], None, 16)
    made = manifest.build(store, "f", Folder("f", str(root)), asked)
    rows = manifest.read_rows(store, "f", made.shards[0].name)
    assert [row.image_id for row in rows] == ids
    assert {len(row.prompt) for row in rows} == {10**6}
    assert list(manifest.read_pictures(store, "f", made.shards[0].name)) == ids
    written = {path.rpartition("/")[2] for path in store.list()}
    assert written == {"part-00000.parquet", "_manifest.json"}


def test_a_picture_that_changed_since_is_refused_when_its_part_is_made_again(
    root: Path, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "out")
    asked = manifest.identity({"name": "f"}, {"p": "What?"}, [0], None, 1)
    manifest.build(store, "f", Folder("f", str(root)), asked)
    for kind in ("rows", "images"):
        store.move(f"manifest/dataset=f/{kind}/part-00001.parquet", f"trash/{kind}")
    (root / "b.png").write_bytes(png("blue"))
    with pytest.raises(LmmsteerError, match="part-00001"):
        manifest.build(store, "f", Folder("f", str(root)), asked)
    there = store.list("manifest")
    assert not [path for path in there if path.endswith("part-00001.parquet")]
    (root / "b.png").write_bytes(png())
    manifest.build(store, "f", Folder("f", str(root)), asked)
    old = store.read_bytes("trash/images")
    assert store.read_bytes("manifest/dataset=f/images/part-00001.parquet") == old
