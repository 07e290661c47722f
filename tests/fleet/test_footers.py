import time
from collections import Counter
from pathlib import Path

import pytest

from lmmsteer import parts
from lmmsteer.fleet import cells, footers
from lmmsteer.fleet.footers import Count, Footers
from lmmsteer.parts import DamagedPart
from lmmsteer.store import LocalStore, Store
from tests.fleet.outputs import cell, part


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each footer is read."""
    found: Counter[str] = Counter()
    original = parts.read_footer

    def counting(store: Store, path: str) -> parts.Footer:
        found[path] += 1
        return original(store, path)

    monkeypatch.setattr(parts, "read_footer", counting)
    return found


def test_a_footer_is_read_once_and_again_only_where_its_part_was_made_again(
    tmp_path: Path, read: Counter[str]
) -> None:
    record = cell(tmp_path)
    paths = [f"{record.cell.folder}/{part(tmp_path, record, n).name}" for n in range(3)]
    counted = Footers(LocalStore(tmp_path))
    for _ in range(3):
        assert list(counted.read(paths).values()) == [Count(10, ())] * 3
    assert read == dict.fromkeys(paths, 1)
    (tmp_path / paths[1]).unlink()
    part(tmp_path, record, 1, failed={"nonfinite": 2})
    assert counted.read(paths)[paths[1]] == Count(10, (("nonfinite", 2),))
    assert read == {paths[0]: 1, paths[1]: 2, paths[2]: 1}


def test_a_damaged_part_is_named_and_one_that_is_gone_is_left_out(tmp_path: Path) -> None:
    record = cell(tmp_path)
    whole, torn = (part(tmp_path, record, n) for n in range(2))
    torn.write_bytes(torn.read_bytes()[:-1])
    names = [f"{record.cell.folder}/{name}" for name in (whole.name, torn.name, "part-9.parquet")]
    found = Footers(LocalStore(tmp_path)).read(names)
    assert list(found) == names[:2]
    assert isinstance(found[names[1]], DamagedPart)
    with pytest.raises(DamagedPart, match=torn.name):
        cells.failed_rows(LocalStore(tmp_path), record.cell.folder, {whole.name, torn.name})


def test_many_slow_footers_are_read_side_by_side_with_the_same_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = cell(tmp_path)
    for number in range(footers.PROBED + 24):
        part(tmp_path, record, number, failed={"picture_broken": number % 3})
    names = cells.done(LocalStore(tmp_path), record.cell.folder)
    expected = cells.failed_rows(LocalStore(tmp_path), record.cell.folder, names)
    assert expected == (400, Counter(picture_broken=39))  # 40 shards: 13 x (0 + 1 + 2) and a 0
    original, under_way, most = parts.read_footer, 0, 0

    def slow(store: Store, path: str) -> parts.Footer:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        time.sleep(0.005)
        under_way -= 1
        return original(store, path)

    monkeypatch.setattr(parts, "read_footer", slow)
    assert cells.failed_rows(LocalStore(tmp_path), record.cell.folder, names) == expected
    assert most > 1
