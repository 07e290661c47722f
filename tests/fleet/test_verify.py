"""Verify on a complete run of two data sets and three cells (tests/corruption/tree.py)."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmmsteer import fingerprint, manifest, parts, seal
from lmmsteer.disk import Disk
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import cells
from lmmsteer.fleet.verify import Fault, Settings, aside, contents, stamp, verify
from lmmsteer.fleet.verify.faults import Wrong
from lmmsteer.schema import IMAGES as PICTURE_SCHEMA
from lmmsteer.schema import RESPONSES, Response, row_id, to_table
from lmmsteer.schema import ROWS as ROW_SCHEMA
from lmmsteer.store import LocalStore
from tests.corruption import tree

CELL, STEERED, MORE = (record.cell.folder for record in tree.RECORDS)
PART = f"{CELL}/part-00001.parquet"
ROWS = "manifest/dataset=colors/rows/part-00001.parquet"
IMAGES = "manifest/dataset=colors/images/part-00001.parquet"
RECORD = f"{CELL}/_cell.json"
MANIFEST = "manifest/dataset=colors/_manifest.json"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    tree.build(folder)
    return folder


@pytest.fixture
def store(built: Path, tmp_path: Path) -> LocalStore:
    shutil.copytree(built, tmp_path / "out")
    return LocalStore(tmp_path / "out")


def write(store: LocalStore, path: str, data: bytes) -> None:
    target = store.folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def faults(store: LocalStore, settings: Settings | None = None) -> dict[str, str]:
    """Kinds by path."""
    return {fault.path: fault.kind for fault in verify(store, settings).faults}


def test_a_complete_run_has_no_fault_and_every_part_is_read(store: LocalStore) -> None:
    found = verify(store)
    assert (found.faults, found.foreign, found.unsealed) == ([], [], 0)
    # 4 + 2 shards: two manifest parts each, and the parts of 2 and 1 cells.
    assert (found.checked, found.parts, found.cells) == (4 * 4 + 2 * 3, 22, 3)


def test_a_flipped_bit_is_named_in_whichever_file_it_is(store: LocalStore) -> None:
    random = Random(1)
    for path, data in tree.state(store.folder).items():
        write(store, path, flipped(data, random.randrange(len(data) * 8)))
        assert set(faults(store)) == {path}
        write(store, path, data)


def test_every_bit_of_a_part_is_in_its_seal(store: LocalStore) -> None:
    data = store.read_bytes(PART)
    for bit in range(len(data) * 8):
        with pytest.raises(Wrong) as caught:
            contents.open_part(flipped(data, bit), RESPONSES)
        assert caught.value.kind == "damaged"


@pytest.mark.parametrize("size", [0, 3, 200, -8, -1])
@pytest.mark.parametrize("path", [PART, ROWS, RECORD, MANIFEST, tree.ARTIFACT])
def test_a_file_that_was_cut_is_named(path: str, size: int, store: LocalStore) -> None:
    write(store, path, store.read_bytes(path)[:size])
    assert faults(store) == {path: "damaged"}


@pytest.mark.parametrize(
    "other",
    [
        f"{CELL}/part-00002.parquet",
        f"{STEERED}/part-00001.parquet",
        f"{MORE}/part-00001.parquet",
    ],
)
def test_parts_that_changed_places_are_both_named(other: str, store: LocalStore) -> None:
    one, two = store.read_bytes(PART), store.read_bytes(other)
    write(store, PART, two)
    write(store, other, one)
    assert faults(store) == {PART: "misplaced", other: "misplaced"}


def test_a_manifest_part_in_anothers_place_is_named(store: LocalStore) -> None:
    write(store, ROWS, store.read_bytes(ROWS.replace("00001", "00000")))
    assert faults(store) == {ROWS: "misplaced"}


def test_a_picture_that_is_not_the_one_of_its_digest_is_named(store: LocalStore) -> None:
    table = parts.read(store, IMAGES, PICTURE_SCHEMA)
    column = table.column_names.index("sha256")
    digests = table.column("sha256").to_pylist()
    wrong = pa.array([*digests[1:], digests[0]], pa.string())
    made = parts.to_bytes(table.set_column(column, "sha256", wrong), "f")
    part = contents.open_part(made, PICTURE_SCHEMA)
    with pytest.raises(Wrong, match="holds a picture whose sha256 is another"):
        contents.check_images(part)


def test_a_part_of_an_earlier_attempt_is_named_by_its_fingerprint(store: LocalStore) -> None:
    old = tree.older(store)[PART]
    write(store, PART, old)
    (fault,) = verify(store).faults
    mine, theirs = parts.footer_of(old).fingerprint, tree.RECORDS[0].digest
    assert str(fault) == (
        f"{PART} was made by another config (fingerprint {str(mine)[:12]}, not {theirs[:12]})"
    )


@pytest.mark.parametrize("path", [PART, ROWS, IMAGES, RECORD, MANIFEST, tree.ARTIFACT])
def test_a_deleted_file_is_missing(path: str, store: LocalStore) -> None:
    (store.folder / path).unlink()
    assert [str(fault) for fault in verify(store).faults] == [f"{path} is missing"]


def test_every_part_of_a_cell_that_lost_all_is_named(store: LocalStore) -> None:
    for path in (store.folder / CELL).glob("part-*"):
        path.unlink()
    assert faults(store) == {f"{CELL}/part-0000{n}.parquet": "missing" for n in range(4)}


def test_a_long_cell_that_has_nothing_yet_takes_one_line(
    monkeypatch: pytest.MonkeyPatch, store: LocalStore
) -> None:
    monkeypatch.setattr("lmmsteer.fleet.verify.survey.FEW", 3)
    for path in (store.folder / CELL).glob("part-*"):
        path.unlink()
    assert [str(fault) for fault in verify(store).faults] == [f"{CELL} has none of its 4 parts"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (f"{CELL}/part-00004.parquet", "unknown"),
        (f"{CELL}/part-1.parquet", "unknown"),
        (ROWS.replace("00001", "00004"), "unknown"),
        (f"{CELL}/part-00001.parquet.tmp", "stray"),
        ("responses/notes.txt", "stray"),
        ("manifest/dataset=colors/part-00000.parquet", "stray"),
        ("artifacts/model=tiny/artifact.safetensors", "stray"),
        (f"{CELL}/.part-00001.parquet.{'0a' * 16}.tmp", "leftover"),
        (f"{CELL}/.part-00001.parquet.swp", "stray"),
        (f"{CELL}/.hidden/part-00001.parquet", "stray"),
    ],
)
def test_what_has_no_place_is_named_and_moved_away(path: str, kind: str, store: LocalStore) -> None:
    before = tree.state(store.folder)
    write(store, path, store.read_bytes(PART))
    os.utime(store.folder / path, (0, 0))
    found = verify(store)
    assert [(fault.path, fault.kind) for fault in found.faults] == [(path, kind)]
    assert aside(store, found.faults, "S") == [path]
    assert tree.state(store.folder) == before
    assert (store.folder / "trash/S" / path).is_file()


def test_a_temporary_of_a_living_writer_is_let_be(store: LocalStore) -> None:
    write(store, f"{CELL}/.part-00001.parquet.{'0a' * 16}.tmp", b"half")
    write(store, f"{CELL}/.nfs0000000000000001", b"of a deleted file that is still open")
    os.utime(store.folder / f"{CELL}/.nfs0000000000000001", (0, 0))
    assert faults(store) == {}
    assert len(faults(store, Settings(grace=-1))) == 1


def test_a_folder_or_a_dead_link_in_a_parts_place_is_named(store: LocalStore) -> None:
    for path in (PART, ROWS):
        (store.folder / path).unlink()
    (store.folder / PART).mkdir()
    (store.folder / ROWS).symlink_to(store.folder / "nowhere")
    found = verify(store).faults
    assert [f"{f.path} {f.kind}" for f in found] == [
        f"{ROWS} unreadable",
        f"{PART} unreadable",
        f"{PART} missing",
    ]
    assert aside(store, found, "S") == []


BREACHES: dict[str, Callable[[Response], Response]] = {
    "a text beside an error": lambda r: replace(r, error="x", error_kind="nonfinite"),
    "neither text nor error": lambda r: replace(r, text=None),
    "an error without a kind": lambda r: replace(r, error="x"),
    "no finish_reason": lambda r: replace(r, finish_reason=None),
    "an unknown finish_reason": lambda r: replace(r, finish_reason="stop"),
    "another number of tokens": lambda r: replace(r, new_tokens=9),
    "no token_ids": lambda r: replace(r, token_ids=None),
    "neither token_ids nor new_tokens": lambda r: replace(r, token_ids=None, new_tokens=None),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_rows_that_contradict_themselves_are_named_with_their_number(
    breach: str, store: LocalStore
) -> None:
    rows = manifest.read_rows(store, "colors", "part-00001.parquet")
    ids = [(r.row_id, r.image_id, r.prompt_id, r.seed) for r in rows]
    answers = [Response(*four, "Yes.", [1, 2], 2, "eos") for four in ids]
    answers[3] = BREACHES[breach](answers[3])
    failed = Counter(r.error_kind for r in answers if r.error_kind)
    extra = {"lmmsteer.failed": json.dumps(failed)}
    mark = tree.RECORDS[0].digest
    write(store, PART, parts.to_bytes(to_table(answers, RESPONSES), mark, extra))
    (fault,) = verify(store).faults
    assert (fault.path, fault.kind) == (PART, "inconsistent")
    assert fault.fault.endswith("(row 4)")


@pytest.mark.parametrize("counts", ['{"nonfinite": 99}', "{}", "[]", "torn {"])
def test_a_footer_that_counts_other_failed_rows_is_named(counts: str, store: LocalStore) -> None:
    table = parts.read(store, PART, RESPONSES)
    assert table.column("error_kind").null_count < table.num_rows, "the fixture has failed rows"
    extra = {"lmmsteer.failed": counts}
    write(store, PART, parts.to_bytes(table, tree.RECORDS[0].digest, extra))
    assert faults(store) == {PART: "inconsistent"}


def test_a_record_of_an_earlier_attempt_does_not_condemn_the_parts(store: LocalStore) -> None:
    write(store, RECORD, tree.older(store)[RECORD])
    assert faults(store) == {RECORD: "misplaced"}


def test_a_record_of_another_cell_is_named(store: LocalStore) -> None:
    write(store, RECORD, store.read_bytes(f"{STEERED}/_cell.json"))
    assert faults(store) == {RECORD: "misplaced"}


def test_parts_of_another_cell_do_not_outvote_the_record(store: LocalStore) -> None:
    names = [path for path in store.list(CELL) if path.endswith(".parquet")]
    for path in names:
        write(store, path, store.read_bytes(path.replace(CELL, STEERED)))
    assert faults(store) == dict.fromkeys(names, "misplaced")


def test_a_manifest_record_of_other_prompts_does_not_condemn_the_parts(
    store: LocalStore, tmp_path: Path
) -> None:
    other = LocalStore(tmp_path / "other")
    source = tree.SOURCES["colors"]
    manifest.build(other, "colors", source, {**source.identity, "seeds": [0]})
    write(store, MANIFEST, other.read_bytes(MANIFEST))
    assert faults(store) == {MANIFEST: "misplaced"}


def test_a_cell_of_another_manifest_is_named_and_its_parts_are_left_alone(
    store: LocalStore,
) -> None:
    shutil.rmtree(store.folder / "manifest/dataset=colors")
    source = tree.SOURCES["colors"]
    manifest.build(store, "colors", source, {**source.identity, "seeds": [0]})
    found = verify(store)
    assert {(f.path, f.kind) for f in found.faults} == {
        (RECORD, "conflict"),
        (f"{STEERED}/_cell.json", "conflict"),
    }
    assert aside(store, found.faults, "S") == []


def test_answers_of_other_programs_are_unverified_and_no_fault(store: LocalStore) -> None:
    table = parts.read(store, PART, RESPONSES)
    folder = "responses/model=api/method=unsteered/attribute=none/dataset=colors"
    (store.folder / folder).mkdir(parents=True)
    pq.write_table(table, store.folder / folder / "part-0-of-1.parquet")
    found = verify(store)
    assert found.faults == []
    assert found.foreign == [f"{folder}/part-0-of-1.parquet"]
    write(store, f"{folder}/part-1-of-1.parquet", b"no Parquet")
    (fault,) = verify(store).faults
    assert fault.path == f"{folder}/part-1-of-1.parquet"
    assert not fault.moved


def test_a_part_of_another_program_in_a_cell_of_ours_is_a_fault(store: LocalStore) -> None:
    pq.write_table(parts.read(store, PART, RESPONSES), store.folder / PART)
    (fault,) = verify(store).faults
    assert str(fault) == f"{PART} was not written by lmmsteer"
    assert fault.moved


def test_a_part_of_a_newer_version_is_named_and_kept(
    monkeypatch: pytest.MonkeyPatch, store: LocalStore
) -> None:
    monkeypatch.setattr(parts, "SCHEMA_VERSION", 2)
    table = pq.read_table(store.folder / PART).replace_schema_metadata(None)
    write(store, PART, parts.to_bytes(table, tree.RECORDS[0].digest))
    monkeypatch.undo()
    (fault,) = verify(store).faults
    assert str(fault) == f"{PART} has schema version 2, and this lmmsteer has 1"
    assert not fault.moved


def unsealed(store: LocalStore) -> None:
    """Every file as versions before the seal wrote it."""
    for path, data in tree.state(store.folder).items():
        if path.endswith(".json"):
            plain = json.dumps(seal.read_record(data), indent=1, ensure_ascii=False)
            write(store, path, plain.encode())
        elif path.endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(data))
            meta = {k: v for k, v in (table.schema.metadata or {}).items() if b"seal" not in k}
            plain = table.replace_schema_metadata(meta)
            pq.write_table(plain, store.folder / path, write_page_checksum=True)


def test_files_of_a_version_without_seals_are_accepted_and_counted(store: LocalStore) -> None:
    unsealed(store)
    found = verify(store)
    assert found.faults == []
    assert found.unsealed == 22 + 5


def test_what_is_wrong_with_the_rows_of_such_a_file_is_found(store: LocalStore) -> None:
    unsealed(store)
    table = pq.read_table(store.folder / PART)
    pq.write_table(table.take(list(range(table.num_rows))[::-1]), store.folder / PART)
    whole = store.read_bytes(ROWS)
    write(store, ROWS, whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    assert faults(store) == {PART: "damaged", ROWS: "damaged"}


def rename(store: LocalStore, part: str, old: str, new: str) -> None:
    """Give a picture of `colors` another id, in its two parts and in the manifest's record."""
    record = seal.read_record(store.read_bytes(MANIFEST))
    shard = next(one for one in record["shards"] if one["name"] == part)
    base = "manifest/dataset=colors"
    pictures = manifest.read_pictures(store, "colors", part)
    rows = [
        replace(
            row,
            image_id=new,
            row_id=row_id(new, pictures[old].sha256, row.prompt, row.seed),
        )
        if row.image_id == old
        else row
        for row in manifest.read_rows(store, "colors", part)
    ]
    shown = [replace(p, image_id=new) if i == old else p for i, p in pictures.items()]
    mark = fingerprint.digest(record["identity"])
    for kind, table in (
        ("rows", to_table(rows, ROW_SCHEMA)),
        ("images", to_table(shown, PICTURE_SCHEMA)),
    ):
        data = parts.to_bytes(table, mark)
        shard[f"{kind}_digest"] = parts.footer_of(data).meta["lmmsteer.digest"]
        write(store, f"{base}/{kind}/{part}", data)
    write(store, MANIFEST, seal.write_record(record))


def test_an_image_id_in_two_parts_is_named(store: LocalStore) -> None:
    shutil.rmtree(store.folder / "responses")
    rename(store, "part-00002.parquet", "colors-4.png", "colors-1.png")
    (fault,) = verify(store).faults
    assert str(fault) == (
        "manifest/dataset=colors/images/part-00002.parquet holds an image id that"
        " part-00000.parquet holds too"
    )


def test_long_and_strange_texts_are_no_fault(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    source = tree.Colors("odd", 0, 3)
    prompts = {"long": "Ä" * 2**20, "null": "a\x00b", "bom": "\ufeffWhat?", "lines": "a\r\n\u2028b"}
    manifest.build(store, "odd", source, {**source.identity, "prompts": prompts})
    assert faults(store) == {}


def test_a_sample_is_the_same_every_time_and_misses_no_name(store: LocalStore) -> None:
    (store.folder / PART).unlink()
    settings = Settings(sample=0.4, seed=3)
    first, second = verify(store, settings), verify(store, settings)
    assert first == second
    assert 0 < first.checked < first.parts == 21
    assert [str(fault) for fault in first.faults] == [f"{PART} is missing"]


def test_samples_of_other_seeds_cover_all_shards(store: LocalStore) -> None:
    write(store, PART, b"")
    found = [faults(store, Settings(sample=0.4, seed=seed)) for seed in range(12)]
    assert {} in found
    assert {PART: "damaged"} in found


def test_several_processes_find_what_one_finds(store: LocalStore) -> None:
    write(store, PART, b"")
    write(store, IMAGES, flipped(store.read_bytes(IMAGES), 999))
    seen: list[int] = []
    found = verify(store, Settings(workers=2), lambda files, of: seen.append(files))
    assert found == verify(store)
    assert len(found.faults) == 2
    assert sum(seen) == found.checked == 22


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LmmsteerError, match="holds no manifest"):
        verify(LocalStore(tmp_path))


def damage(store: LocalStore) -> None:
    """A fault of every sort that is moved aside."""
    write(store, PART, b"")
    write(store, ROWS, flipped(store.read_bytes(ROWS), 999))
    write(store, IMAGES, store.read_bytes(IMAGES.replace("00001", "00000")))
    write(store, RECORD, store.read_bytes(RECORD)[:-9])
    write(store, MANIFEST.replace("colors", "more"), b"{}")
    write(store, tree.ARTIFACT, flipped(store.read_bytes(tree.ARTIFACT), 1000))
    write(store, f"{MORE}/part-00002.parquet", store.read_bytes(PART.replace("00001", "00002")))


def test_what_was_repaired_is_made_again_to_the_same_bytes(store: LocalStore) -> None:
    before = tree.state(store.folder)
    damage(store)
    moved = aside(store, verify(store).faults, stamp())
    assert len(moved) == 7
    tree.complete(store)
    assert tree.state(store.folder) == before
    assert faults(store) == {}


def test_two_repairers_move_each_file_once_and_nothing_that_was_made_anew(
    store: LocalStore,
) -> None:
    before = tree.state(store.folder)
    damage(store)
    first, second = verify(store).faults, verify(store).faults
    assert len(aside(store, first, "one")) == 7
    assert aside(store, second, "two") == []
    tree.complete(store)
    assert aside(store, second, "three") == []
    assert tree.state(store.folder) == before


class Killed(BaseException):
    pass


class Mortal(Disk):
    """Dies at its n-th operation that changes the disk."""

    def __init__(self, left: int) -> None:
        self.left = left
        for name in ("make_folder", "create", "write", "sync", "sync_folder", "link", "remove"):
            setattr(self, name, self._counted(getattr(self, name)))

    def _counted(self, operation: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object) -> object:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return operation(*arguments)

        return counted


def test_a_repair_that_is_killed_at_any_operation_is_finished_by_another(
    built: Path, tmp_path: Path
) -> None:
    before = tree.state(built)
    damaged = LocalStore(tmp_path / "damaged")
    shutil.copytree(built, damaged.folder)
    write(damaged, PART, b"")
    write(damaged, MANIFEST, b"{}")
    found = verify(damaged).faults
    for count in range(1000):
        store = LocalStore(tmp_path / str(count))
        shutil.copytree(damaged.folder, store.folder)
        try:
            aside(LocalStore(store.folder, Mortal(count)), found, stamp())
        except Killed:
            aside(store, verify(store).faults, stamp())
        else:
            break
        tree.complete(store)
        now = tree.state(store.folder)
        assert {path: now[path] for path in now if "/." not in path} == before, count
        shutil.rmtree(store.folder)
    assert count > 20


def test_a_manifest_and_its_cells_name_the_same_prompts(store: LocalStore) -> None:
    made = manifest.load(store, "colors")
    assert made is not None
    mark = fingerprint.digest(made.identity)
    assert parts.read_footer(store, ROWS).fingerprint == mark
    found = cells.load(store, CELL)
    assert found is not None
    assert found.fingerprint["manifest"] == made.identity


def test_a_fault_reads_as_a_line_that_begins_with_its_path() -> None:
    assert str(Fault("a/b", "is missing", "missing")) == "a/b is missing"
