from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lmmsteer import parts
from lmmsteer.schema import RESPONSES, Response, to_table
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
    }


def test_the_same_rows_make_the_same_bytes() -> None:
    first, second = (parts.to_bytes(to_table(ROWS, RESPONSES), "f") for _ in range(2))
    assert first == second


def test_plain_parquet_readers_open_a_part(store: LocalStore) -> None:
    table = pq.read_table(Path(store.root) / "part-00000.parquet")
    assert table.column("text").to_pylist() == ["Hello."] * 20


def test_every_flipped_byte_of_the_rows_is_found(store: LocalStore, tmp_path: Path) -> None:
    whole = store.read_bytes("part-00000.parquet")
    footer = int.from_bytes(whole[-8:-4], "little")
    found = 0
    for at in range(4, len(whole) - 8 - footer, 7):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        (tmp_path / "x.parquet").write_bytes(damaged)
        try:
            table = parts.read(store, "x.parquet", RESPONSES)
        except parts.DamagedPart:
            found += 1
        else:  # a byte between the pages, which no row depends on
            assert table.equals(to_table(ROWS, RESPONSES))
    assert found > 50


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


def test_a_part_of_another_version_is_refused(store: LocalStore, tmp_path: Path) -> None:
    table = pq.read_table(tmp_path / "part-00000.parquet")
    meta = {**(table.schema.metadata or {}), b"lmmsteer.schema": b"99"}
    pq.write_table(table.replace_schema_metadata(meta), tmp_path / "y.parquet")
    with pytest.raises(parts.DamagedPart, match="schema version 99"):
        parts.read(store, "y.parquet", RESPONSES)


def test_rows_that_do_not_match_the_digest_are_refused(store: LocalStore, tmp_path: Path) -> None:
    table = pq.read_table(tmp_path / "part-00000.parquet")
    swapped = table.take(list(range(19, -1, -1)))
    pq.write_table(swapped.replace_schema_metadata(table.schema.metadata), tmp_path / "y.parquet")
    with pytest.raises(parts.DamagedPart, match="do not match its digest"):
        parts.read(store, "y.parquet", RESPONSES)
