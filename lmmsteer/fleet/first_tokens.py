"""The first token's probabilities under the cells of an output folder: each model loaded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from lmmsteer import device, fingerprint, manifest
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.first_token import Sums, watch
from lmmsteer.engine.sampling import Sampling
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import cells, engines
from lmmsteer.fleet.cells import CellRecord
from lmmsteer.fleet.pictures import Decoded
from lmmsteer.fleet.resolve import facts_of, family, model_spec, typed_config
from lmmsteer.fleet.shard import edit_of
from lmmsteer.fleet.steering import Place, Steering, method_of, steering_of
from lmmsteer.fleet.task import ModelSpec
from lmmsteer.methods.words import whole_spellings
from lmmsteer.models import lmm as models
from lmmsteer.models.lexicon import token_texts
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Request
from lmmsteer.store import Store


@dataclass(frozen=True)
class Opened:
    """A recorded cell, ready to be looked at: its model in memory, its method resolved."""

    record: CellRecord
    lmm: Lmm
    steering: Steering
    engine: Any
    sampling: Sampling
    strict: bool

    @property
    def texts(self) -> Sequence[str]:
        """What every token says, a leading space included."""
        return token_texts(self.lmm.tokenizer, self.lmm.vocab_size)

    def spelled(self, words: Sequence[str]) -> list[int]:
        """The tokens that spell one of the words whole, in any case, with a space before or not."""
        found = whole_spellings(self.lmm.tokenizer, words)
        return [token for token in found if token < self.lmm.vocab_size]


class FirstTokens:
    """Looks at cells of one output folder, one after the other."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._loaded: tuple[ModelSpec, Lmm] | None = None
        self._engines: dict[Any, Any] = {}
        self._rows: tuple[Any, dict[str, list[Request]]] | None = None

    def open(self, folder: str) -> Opened:
        """The cell of a folder below `out`.

        Raises: LmmsteerError where its model or artifact is not there, or is another one than the
        answers were made with.
        """
        record = cells.load(self.store, folder)
        if record is None:
            raise LmmsteerError(
                f"{self.store.root}/{folder} has no _cell.json, so its model is not known.",
                "Analyse the output that lmmsteer generate has written.",
            )
        config = typed_config(record.config)
        engines.check(config.engine)
        spec, files = model_spec(config)
        spec = replace(spec, name=record.cell.model)
        steering = self._steering(record, config, spec, files)
        model = self._model(spec)
        key = astuple(config.engine)
        engine = self._engines.setdefault(key, engines.open_engine(config.engine))
        sampling = Sampling(**vars(config.sampling))
        return Opened(record, model, steering, engine, sampling, config.engine.strict)

    def _steering(self, record: CellRecord, config: Any, spec: ModelSpec, folder: Path) -> Steering:
        key, method = method_of(config)
        place = Place(
            store=self.store,
            config=config,
            facts=facts_of(spec, folder),
            family=family(spec, folder),
            model=record.cell.model,
            attribute=record.cell.attribute,
            fitted=record.cell.method,
            recorded=record.artifact,
            parts=record.parts,
        )
        steering = steering_of(place, key, method)
        recorded, found = record.fingerprint, {"digest": spec.digest, "method": steering.defining}
        was = {"digest": recorded["model"]["digest"], "method": recorded["method"]}
        if fingerprint.digest(was) != fingerprint.digest(found):
            differing = "; ".join(fingerprint.differences(was, found))
            raise LmmsteerError(
                f"{self.store.root}/{record.cell.folder} was answered by another model or artifact"
                f" than the one that is there now ({differing}).",
                "Bring back the one that answered.",
            )
        return steering

    def _model(self, spec: ModelSpec) -> Lmm:
        if self._loaded is None or self._loaded[0] != spec:
            self._loaded = None  # What the old model took goes before the new one comes.
            self._engines.clear()
            made = models.load(
                name=spec.name,
                path=spec.path,
                revision=spec.revision,
                dtype=spec.dtype,
                family=spec.family,
                device=device.detect("auto"),
                digest=spec.digest,
            )
            self._loaded = spec, made
        return self._loaded[1]

    def look(self, opened: Opened, image_ids: Sequence[str], steered: bool) -> Sums:
        """Sums by picture, in the order of `image_ids`: of each prompt of the manifest once.

        steered: under the cell's method, or its model as it is.
        """
        sums = Sums(len(image_ids), opened.lmm.vocab_size)
        place = {image_id: at for at, image_id in enumerate(image_ids)}
        for part, rows in self._asked(opened.record.cell.dataset, image_ids).items():
            self._look(opened, rows, part, steered, place, sums)
        return sums

    def _asked(self, dataset: str, image_ids: Sequence[str]) -> dict[str, list[Request]]:
        """The rows to look at, by part; kept, for the cells of a data set are shown the same."""
        key = dataset, tuple(image_ids)
        if self._rows is None or self._rows[0] != key:
            found = manifest.load(self.store, dataset)
            if found is None:
                raise LmmsteerError(
                    f"{self.store.root} has no manifest of {dataset}.",
                    f"Bring back {self.store.root}/{manifest.folder(dataset)}",
                )
            wanted = set(image_ids)
            parts = {
                shard.name: _once(manifest.read_rows(self.store, dataset, shard.name), wanted)
                for shard in found.shards
            }
            self._rows = key, {part: rows for part, rows in parts.items() if rows}
        return self._rows[1]

    def _look(
        self,
        opened: Opened,
        rows: Sequence[Request],
        part: str,
        steered: bool,
        place: dict[str, int],
        sums: Sums,
    ) -> None:
        dataset, wanted = opened.record.cell.dataset, {row.image_id for row in rows}
        pictures = manifest.read_pictures(self.store, dataset, part)
        pictures = {image_id: p for image_id, p in pictures.items() if image_id in wanted}
        with Decoded(pictures) as shown:
            broken = {image_id for image_id in shown if shown.error(image_id) is not None}
            rows = [row for row in rows if row.image_id not in broken]
            if not rows:
                return
            edit = Edit()
            if steered:
                spec, engine = opened.steering.spec, opened.engine
                edit = edit_of(self.store, opened.lmm, spec, rows, shown, engine, opened.strict)
            at = [place[row.image_id] for row in rows]
            watch(opened.engine, opened.lmm, rows, shown, edit, opened.sampling, at, sums)


def _once(rows: Sequence[Request], image_ids: set[str]) -> list[Request]:
    """A row for each of the pictures and prompts: the first seed's, for what is said first."""
    found: dict[tuple[str, str], Request] = {}
    for row in rows:
        if row.image_id in image_ids:
            found.setdefault((row.image_id, row.prompt_id), row)
    return list(found.values())
