import io
import random
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmmsteer import parts
from lmmsteer.schema import IMAGES, RESPONSES, Picture, Response, to_table
from lmmsteer.store import LocalStore

ROWS = [Response(f"{i:032x}", f"{i}.png", "p", i, "Hello.", [1, 2], 2, "eos") for i in range(20)]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    store.create("part-00000.parquet", parts.to_bytes(to_table(ROWS, RESPONSES), "f" * 64))
    return store


def test_a_part_reads_back_with_its_footer(store: LocalStore) -> None:
    table = parts.read(store, "part-00000.parquet", RESPONSES)
    assert table.equals(to_table(ROWS, RESPONSES))
    footer = parts.read_footer(store, "part-00000.parquet")
    assert (footer.rows, footer.fingerprint) == (20, "f" * 64)
    assert set(footer.meta) == {
        "lmmsteer.schema",
        "lmmsteer.fingerprint",
        "lmmsteer.digest",
        "lmmsteer.rows",
        "lmmsteer.seal",
    }


def test_the_same_rows_make_the_same_bytes() -> None:
    first, second = (parts.to_bytes(to_table(ROWS, RESPONSES), "f") for _ in range(2))
    assert first == second


def test_plain_parquet_readers_open_a_part(store: LocalStore) -> None:
    table = pq.read_table(Path(store.root) / "part-00000.parquet")
    assert table.column("text").to_pylist() == ["Hello."] * 20


def test_a_flipped_bit_anywhere_in_the_file_is_found(store: LocalStore, tmp_path: Path) -> None:
    whole = store.read_bytes("part-00000.parquet")
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        (tmp_path / "x.parquet").write_bytes(damaged)
        with pytest.raises(parts.DamagedPart, match=r"x\.parquet is damaged"):
            parts.read(store, "x.parquet", RESPONSES)


@pytest.mark.parametrize("size", [0, 3, 100, -1])
def test_a_truncated_part_is_named(size: int, store: LocalStore, tmp_path: Path) -> None:
    whole = store.read_bytes("part-00000.parquet")
    (tmp_path / "x.parquet").write_bytes(whole[:size])
    for read in (
        lambda: parts.read(store, "x.parquet", RESPONSES),
        lambda: parts.read_footer(store, "x.parquet"),
    ):
        with pytest.raises(parts.DamagedPart, match=r"x\.parquet is damaged"):
            read()


def unsealed(table: pa.Table) -> dict[bytes, bytes]:
    """The footer of a table as versions before the seal wrote it."""
    return {k: v for k, v in (table.schema.metadata or {}).items() if k != b"lmmsteer.seal"}


def test_a_part_of_another_version_is_refused(store: LocalStore, tmp_path: Path) -> None:
    table = pq.read_table(tmp_path / "part-00000.parquet")
    meta = {**unsealed(table), b"lmmsteer.schema": b"99"}
    pq.write_table(table.replace_schema_metadata(meta), tmp_path / "y.parquet")
    with pytest.raises(parts.DamagedPart, match="schema version 99"):
        parts.read(store, "y.parquet", RESPONSES)


def test_rows_that_do_not_match_the_digest_are_refused(store: LocalStore, tmp_path: Path) -> None:
    table = pq.read_table(tmp_path / "part-00000.parquet")
    swapped = table.take(list(range(19, -1, -1)))
    pq.write_table(swapped.replace_schema_metadata(unsealed(table)), tmp_path / "y.parquet")
    with pytest.raises(parts.DamagedPart, match="do not match its digest"):
        parts.read(store, "y.parquet", RESPONSES)


def test_a_part_with_other_columns_is_refused(store: LocalStore, tmp_path: Path) -> None:
    rows = pq.read_table(tmp_path / "part-00000.parquet").replace_schema_metadata(None)
    store.create(
        "y.parquet", parts.to_bytes(rows.rename_columns(["id", *rows.column_names[1:]]), "f")
    )
    with pytest.raises(parts.DamagedPart, match="columns are not those of this version"):
        parts.read(store, "y.parquet", RESPONSES)


class Remote(LocalStore):
    """A store of which every byte that is fetched is counted."""

    fetched = 0

    def local(self, path: str) -> None:
        return None

    def read_bytes(self, path: str) -> bytes:
        raise AssertionError(f"{path} was fetched whole")

    def open_input(self, path: str) -> pa.NativeFile:
        store, data = self, LocalStore(Path(self.root)).read_bytes(path)

        class Counted(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                found = super().read(size)
                store.fetched += len(found)
                return found

        return pa.PythonFile(Counted(data), mode="r")


def test_a_footer_is_read_without_the_rest_of_a_large_part(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(1_000_000).hex()
    rows = [
        replace(row, text=noise[40_000 * at : 40_000 * at + 40_000]) for at, row in enumerate(ROWS)
    ]
    data = parts.to_bytes(to_table(rows, RESPONSES), "f", {"lmmsteer.failed": "{}"})
    assert len(data) > 300_000
    LocalStore(tmp_path).create("x.parquet", data)
    remote = Remote(tmp_path)
    footer = parts.read_footer(remote, "x.parquet")
    assert footer == parts.footer_of(data)
    assert (footer.rows, footer.meta["lmmsteer.failed"]) == (20, "{}")
    assert remote.fetched <= 65_536


def test_a_column_is_read_without_the_others(tmp_path: Path) -> None:
    pictures = [Picture(f"{i}.png", random.Random(i).randbytes(30_000), "a") for i in range(20)]
    data = parts.to_bytes(to_table(pictures, IMAGES), "f")
    LocalStore(tmp_path).create("x.parquet", data)
    remote = Remote(tmp_path)
    expected = [picture.image_id for picture in pictures]
    assert parts.read_column(remote, "x.parquet", "image_id") == expected
    assert remote.fetched < 200_000 < len(data)


def test_a_column_that_is_not_there_or_damaged_is_named(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(parts.DamagedPart, match=r"part-00000\.parquet is damaged"):
        parts.read_column(store, "part-00000.parquet", "nothing")
    damaged = bytearray(store.read_bytes("part-00000.parquet"))
    damaged[60] ^= 1
    (tmp_path / "x.parquet").write_bytes(damaged)
    with pytest.raises(parts.DamagedPart, match=r"x\.parquet is damaged"):
        parts.read_column(store, "x.parquet", "row_id")
