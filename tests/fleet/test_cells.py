from dataclasses import replace
from pathlib import Path

import pytest

from lmmsteer import parts
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import cells
from lmmsteer.fleet.cells import CellRecord
from lmmsteer.schema import RESPONSES, Cell, Response, to_table
from lmmsteer.store import LocalStore

RECORD = CellRecord(
    Cell("m", "x", "a", "d"), {}, {"sampling": {"top_k": 50}}, {"torch": "2.13.0", "slots": 64}
)


def test_a_record_reads_back_and_admits_the_same_command(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert cells.gate(store, RECORD, False) is None
    cells.record(store, RECORD, None)
    assert cells.gate(store, RECORD, False) == RECORD


def test_another_fingerprint_is_refused_by_key_even_with_mixed_stack(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    cells.record(store, RECORD, None)
    other = replace(RECORD, fingerprint={"sampling": {"top_k": 5}})
    with pytest.raises(LmmsteerError, match=r"sampling\.top_k: 50 -> 5"):
        cells.gate(store, other, True)


def test_another_stack_is_refused_unless_mixed_and_then_recorded(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    cells.record(store, RECORD, None)
    other = replace(RECORD, stack={"torch": "2.14.0", "slots": 64})
    with pytest.raises(LmmsteerError, match=r"torch: \"2\.13\.0\" -> \"2\.14\.0\""):
        cells.gate(store, other, False)
    cells.record(store, other, cells.gate(store, other, True))
    found = cells.load(store, RECORD.cell.folder)
    assert found is not None
    assert (found.stack, found.mixed_stacks) == (RECORD.stack, (other.stack,))
    assert cells.gate(store, other, False) is not None


def test_a_record_with_another_value_is_damaged_and_named(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    cells.record(store, RECORD, None)
    path = tmp_path / cells.path_of(RECORD.cell.folder)
    path.write_text(path.read_text().replace('"slots": 64', '"slots": 65'))
    with pytest.raises(LmmsteerError, match=r"_cell\.json is damaged") as caught:
        cells.load(store, RECORD.cell.folder)
    assert "lmmsteer verify repair=true" in caught.value.mend


@pytest.mark.parametrize("mark", [RECORD.digest, "0" * 64])
def test_parts_without_a_record_are_gone_on_with_by_their_own_config_alone(
    mark: str, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path)
    rows = to_table([Response("0" * 32, "a", "p", 0, "Yes.", [1], 1, "eos")], RESPONSES)
    store.create(f"{RECORD.cell.folder}/part-00000.parquet", parts.to_bytes(rows, mark))
    if mark == RECORD.digest:
        assert cells.gate(store, RECORD, False) is None
    else:
        with pytest.raises(LmmsteerError, match=r"part-00000\.parquet was made by another config"):
            cells.gate(store, RECORD, False)
