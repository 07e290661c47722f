"""Finished cells and their answers, joined with the manifest's labels: one cell at a time, whole.

Knows the layout of out/responses and out/manifest, and nothing of what is measured. Answers that
lmmsteer did not write (no footer of ours, or no _cell.json) are read too and are not `verified`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import polars as pl

from analysis.labels import Labels
from analysis.pieces import damaged, lacking, opened
from analysis.worked import Worked, of_cells
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import Cell
from lmmsteer.store import Store

KEYS = ("model", "method", "attribute", "dataset")
BASELINE = "unsteered"
ANSWER_COLUMNS = ("row_id", "image_id", "prompt_id", "seed", "text")
OPTIONAL_COLUMNS = ("new_tokens", "finish_reason")  # Where lmmsteer wrote the answers.


@dataclass(frozen=True)
class Part:
    """One response part: its path below `out`, its rows, and the digest of them in our footer."""

    path: str
    rows: int
    digest: str = ""

    @property
    def ours(self) -> bool:
        return bool(self.digest)


@dataclass(frozen=True)
class CellFiles:
    """A cell's folder as it lies there. `planned` is None without a manifest."""

    cell: Cell
    parts: tuple[Part, ...]
    record: Mapping[str, Any] = field(default_factory=dict)
    planned: int | None = None

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def snapshot(self) -> str:
        """sha256 over path, rows and digest of the parts that were seen, in their order."""
        seen = [[part.path, part.rows, part.digest] for part in self.parts]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()

    @property
    def verified(self) -> bool:
        return bool(self.record) and all(part.ours for part in self.parts)

    @property
    def partial(self) -> bool:
        return not self.parts or (self.planned is not None and self.rows < self.planned)

    @property
    def attribute(self) -> str:
        """The attribute that is steered, without what a sweep varied (`gender+words-x`)."""
        config = self.record.get("config", {}).get("attribute")
        named = config.get("name") if isinstance(config, Mapping) else None
        if self.cell.attribute == "none" or not named:
            return self.cell.attribute.partition("+")[0]
        return str(named)


@dataclass(frozen=True)
class Answers:
    """Answered rows of a cell (`text` is never null), and how many rows of the cell failed.

    frame: row_id, image_id, prompt_id, seed, text; with a manifest also prompt, group_id, labels.
    coverage: the cell's answered and failed rows as a share of the planned ones. work: what workers
    took for each part, by its name; the logs are read when it is asked for. labels: the label
    columns in which any answered row of the cell has a label; None: those of this frame.
    """

    files: CellFiles
    frame: pl.DataFrame
    failed: int
    coverage: float | None
    work: Callable[[], Mapping[str, Worked]] = dict
    labels: frozenset[str] | None = None

    @property
    def cell(self) -> Cell:
        return self.files.cell

    def labelled(self, column: str) -> bool:
        """Whether any answered row of the cell has a label of this column."""
        if self.labels is not None:
            return column in self.labels
        return column in self.frame.columns and bool(self.frame[column].is_not_null().any())

    def clusters(self, by: str) -> pl.Expr:
        """What intervals resample: the picture, or the counterfactual set where a row has one."""
        if by not in self.frame.columns:
            return pl.col("image_id")
        return pl.coalesce(by, "image_id")


class Output:
    """The cells and manifests of an output folder."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._labels: dict[str, Labels] = {}
        self._worked: dict[str, dict[str, Worked]] | None = None

    @cached_property
    def cells(self) -> list[CellFiles]:
        """Every cell with a response part or a record, unsteered ones first.

        Raises: LmmsteerError where there is none, or where a part is no Parquet file.
        """
        folders: dict[str, list[str]] = {}
        for path in self.store.list("responses"):
            folder, _, name = path.rpartition("/")
            if name == "_cell.json" or (name.startswith("part-") and name.endswith(".parquet")):
                folders.setdefault(folder, []).append(path)
        cells = [self._cell(folder, paths) for folder, paths in folders.items()]
        found = [cell for cell in cells if cell is not None]
        if not found:
            raise LmmsteerError(
                f"{self.store.root} has no responses.",
                f"Make some: lmmsteer generate out={self.store.root}",
            )
        return sorted(found, key=_order)

    def _cell(self, folder: str, paths: list[str]) -> CellFiles | None:
        names = dict(step.split("=", 1) for step in folder.split("/") if "=" in step)
        if set(names) != set(KEYS):
            return None
        model, method, attribute, dataset = (names[key] for key in KEYS)
        cell = Cell(model, method, attribute, dataset)
        parts = tuple(_part(self.store, path) for path in paths if path.endswith(".parquet"))
        record = f"{folder}/_cell.json" in paths
        return CellFiles(
            cell,
            parts,
            _read_json(self.store, f"{folder}/_cell.json") if record else {},
            self._planned(cell.dataset),
        )

    def _planned(self, dataset: str) -> int | None:
        return self.totals(dataset).get("rows")

    def totals(self, dataset: str) -> Mapping[str, Any]:
        """What _manifest.json says of a data set: rows, images; empty without a manifest."""
        path = f"manifest/dataset={dataset}/_manifest.json"
        return _read_json(self.store, path) if self.store.exists(path) else {}

    def refuse_partial(self) -> None:
        """Raise where a cell has fewer rows than its manifest, naming the cells."""
        partial = [files for files in self.cells if files.partial]
        if not partial:
            return
        named = [f"{f.cell} ({f.rows} of {f.planned or 'unknown'} rows)" for f in partial[:8]]
        if len(partial) > 8:
            named.append(f"and {len(partial) - 8} more")
        raise LmmsteerError(
            f"{len(partial)} of {len(self.cells)} cells are not finished: {', '.join(named)}.",
            f"Finish them: lmmsteer resume out={self.store.root}\n"
            "Or measure what is there: allow_partial=true",
        )

    def labels(self, dataset: str) -> Labels:
        """The labels of a data set's rows, as its manifest has them."""
        if dataset not in self._labels:
            self._labels[dataset] = Labels(self.store, dataset, read)
        return self._labels[dataset]

    def load(self, files: CellFiles) -> Answers:
        """All answers of a cell at once, for those who need few cells or few columns of them.

        Raises: LmmsteerError for a damaged part, a missing column or a row answered twice.
        """
        paths = [part.path for part in files.parts]
        frame = read(self.store, paths, ANSWER_COLUMNS, OPTIONAL_COLUMNS)
        if frame["row_id"].n_unique() < len(frame):
            twice = frame.filter(pl.col("row_id").is_duplicated())["row_id"][0]
            raise answered_twice(self.store, files, twice)
        manifest = self.labels(files.cell.dataset).whole()
        known = len(frame)
        if manifest is not None:
            known = len(frame.join(manifest, on="row_id", how="semi"))
            frame = frame.join(manifest, on="row_id", how="left", maintain_order="left")
        answered = frame.filter(pl.col("text").is_not_null())
        coverage = known / files.planned if files.planned else None
        work = partial(self.work, files.cell)
        return Answers(files, answered, len(frame) - len(answered), coverage, work)

    def work(self, cell: Cell) -> Mapping[str, Worked]:
        """What workers took for each part of a cell, by its name."""
        if self._worked is None:
            self._worked = of_cells(self.store)
        return self._worked.get(str(cell), {})


def read(
    store: Store, paths: Sequence[str], columns: Sequence[str], optional: Sequence[str] = ()
) -> pl.DataFrame:
    """Named columns of Parquet parts, in the order of the parts; missing ones are named.

    optional: columns that are null where a part has none, and left out where no part has any.
    """
    frames = []
    for path in paths:
        source = store.local(path) or io.BytesIO(store.read_bytes(path))
        try:
            frames.append(_read(source, columns, optional))
        except pl.exceptions.ColumnNotFoundError as error:
            raise lacking(store, path, str(error).splitlines()[0]) from error
        except (pl.exceptions.PolarsError, OSError) as error:
            raise damaged(store, path, error) from error
    return pl.concat(frames, how="diagonal_relaxed")


def _read(source: Any, columns: Sequence[str], optional: Sequence[str]) -> pl.DataFrame:
    try:
        return pl.read_parquet(source, columns=[*columns, *optional], hive_partitioning=False)
    except pl.exceptions.ColumnNotFoundError:
        if not optional:
            raise
    there = [name for name in optional if name in pl.read_parquet_schema(source)]
    return pl.read_parquet(source, columns=[*columns, *there], hive_partitioning=False)


def _order(files: CellFiles) -> tuple[str, str, bool, str]:
    cell = files.cell
    return cell.model, cell.dataset, cell.method != BASELINE, str(cell)


def answered_twice(store: Store, files: CellFiles, row: str) -> LmmsteerError:
    return LmmsteerError(
        f"{store.root}/{files.cell.folder} answers the row {row} twice.",
        "Move the part that does not belong there out of the folder.",
    )


def _part(store: Store, path: str) -> Part:
    with opened(store, path) as part:
        metadata = part.metadata
    footer = metadata.metadata or {}
    rows = footer.get(b"lmmsteer.rows")
    if rows is not None and int(rows) != metadata.num_rows:
        reason = f"{metadata.num_rows} rows where its footer says {int(rows)}"
        raise damaged(store, path, reason)
    return Part(path, metadata.num_rows, footer.get(b"lmmsteer.digest", b"").decode())


def _read_json(store: Store, path: str) -> dict[str, Any]:
    try:
        record = json.loads(store.read_bytes(path))
    except ValueError as error:
        raise damaged(store, path, error) from error
    return record if isinstance(record, dict) else {}
