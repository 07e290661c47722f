"""The way of a shard: read, decode, edit, generate, commit. A pure function of task and part."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from PIL import Image

from lmmsteer import manifest, parts
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.sampling import Sampling
from lmmsteer.errors import PictureError
from lmmsteer.fleet.commit import REASONS, commit, not_shown
from lmmsteer.fleet.commit import found as found
from lmmsteer.fleet.commit import part_bytes as part_bytes
from lmmsteer.fleet.engines import Engine, facts_of
from lmmsteer.fleet.pictures import Decoded
from lmmsteer.fleet.task import MethodSpec, Report, Task
from lmmsteer.methods import METHODS
from lmmsteer.methods.artifact import Artifact
from lmmsteer.methods.base import Attribute, Context, Features, Method
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Picture, Request, Response
from lmmsteer.store import Store

FILLER = "Describe this image."


class Shard:
    """One shard of a cell on its way: `answer` commits its part, `probe` tries a row alone.

    digests: of the manifest's two parts, as the plan knows them. stage: told where it is.
    """

    def __init__(
        self,
        task: Task,
        part: str,
        engine: Engine,
        stage: Callable[[str], None] = lambda name: None,
        digests: tuple[str, str] | None = None,
    ) -> None:
        self.task, self.part, self.engine, self.stage = task, part, engine, stage
        self.digests = digests
        self._read: tuple[list[Request], dict[str, Picture]] | None = None

    def answer(self, store: Store, lmm: Lmm, excluded: Mapping[int, str] | None = None) -> Report:
        """Answer every row and commit. Rows in = rows out: a failed row is a response too.

        excluded: rows, by index, that are not shown to the model, with their error kinds. A filler
        stands in for each, so that its neighbours keep their batch and their text.
        """
        start = time.monotonic()
        requests, pictures = self.read(store)
        excluded = excluded or {}
        shown, kept = _fill(requests, pictures, excluded)
        answered, broken = self._generate(store, lmm, shown, kept)
        responses = [
            _response(request, answered[n], broken, excluded.get(n))
            for n, request in enumerate(requests)
        ]
        self.stage("commit")
        report = commit(store, self.task, self.part, responses)
        return replace(report, seconds=time.monotonic() - start, engine=facts_of(self.engine))

    def probe(self, store: Store, lmm: Lmm, row: int) -> Report:
        """Answer one row alone; the answer is dropped, since alone is not how it would be made."""
        requests, pictures = self.read(store)
        request = requests[row]
        self._generate(store, lmm, [request], {request.image_id: pictures[request.image_id]})
        return Report(rows=1)

    def read(self, store: Store) -> tuple[list[Request], dict[str, Picture]]:
        """Rows and pictures. Raises: DamagedPart for parts that are not those of the plan."""
        if self._read is None:
            self._check(store)
            requests = manifest.read_rows(store, self.task.dataset, self.part)
            pictures = manifest.read_pictures(store, self.task.dataset, self.part)
            self._read = requests, pictures
        return self._read

    def _check(self, store: Store) -> None:
        base = manifest.folder(self.task.dataset)
        for kind, digest in zip(("rows", "images"), self.digests or (), strict=False):
            path = f"{base}/{kind}/{self.part}"
            if parts.read_footer(store, path).meta.get("lmmsteer.digest") != digest:
                raise parts.DamagedPart(
                    f"{store.root}/{path} is not the part that its manifest names.",
                    f"See what is wrong with: lmmsteer verify out={store.root}",
                )

    def _generate(
        self,
        store: Store,
        lmm: Lmm,
        requests: Sequence[Request],
        pictures: Mapping[str, Picture],
    ) -> tuple[list[Response], dict[str, PictureError]]:
        sampling = Sampling(**vars(self.task.sampling))
        strict = self.task.engine.strict
        with Decoded(pictures) as shown:
            self.stage("edit")
            edit = edit_of(store, lmm, self.task.method, requests, shown, self.engine, strict)
            self.stage("generate")
            answered = list(self.engine.generate(lmm, requests, shown, edit, sampling))
            broken = {image_id: error for image_id in shown if (error := shown.error(image_id))}
        return answered, broken


def edit_of(
    store: Store,
    lmm: Lmm,
    spec: MethodSpec,
    requests: Sequence[Request],
    pictures: Mapping[str, Image.Image],
    engine: Engine,
    strict: bool,
) -> Edit:
    """What a method changes for these rows and their pictures."""
    method, context = open_method(store, spec)
    features = getattr(engine, "features", None)
    return method.edit(lmm, requests, _seeing(context, pictures, features, strict))


def open_method(store: Store, spec: MethodSpec) -> tuple[Method, Context]:
    """The method, and what its edit rests on besides the rows and their pictures."""
    method = METHODS[spec.method](**spec.parameters)
    artifact = None
    if spec.artifact is not None:
        data = store.read_bytes(spec.artifact)
        artifact = Artifact.from_bytes(data, f"{store.root}/{spec.artifact}")
    parts = tuple(open_method(store, part) for part in spec.parts)
    return method, Context(attribute_of(spec), artifact, parts)


def _seeing(
    context: Context,
    pictures: Mapping[str, Image.Image],
    features: Features | None,
    alone: bool,
) -> Context:
    """A context, and those of its parts, with the shard's pictures."""
    parts = tuple((m, _seeing(own, pictures, features, alone)) for m, own in context.parts)
    return replace(context, parts=parts, pictures=pictures, features=features, alone=alone)


def attribute_of(spec: MethodSpec) -> Attribute:
    values = spec.attribute
    return Attribute(values["name"], values["question"] or "", tuple(values["words"]))


def _fill(
    requests: Sequence[Request], pictures: Mapping[str, Picture], excluded: Mapping[int, str]
) -> tuple[list[Request], dict[str, Picture]]:
    """Rows and pictures with a filler for every excluded row, and for a picture without others."""
    shown = [replace(q, prompt=FILLER) if n in excluded else q for n, q in enumerate(requests)]
    left = {q.image_id for n, q in enumerate(requests) if n not in excluded}
    kept = dict(pictures)
    for number, kind in excluded.items():
        image_id = requests[number].image_id
        if image_id not in left:
            kept[image_id] = Picture(image_id, None, None, kind, REASONS.get(kind, kind))
    return shown, kept


def _response(
    request: Request,
    answered: Response,
    broken: Mapping[str, PictureError],
    excluded: str | None,
) -> Response:
    if excluded is not None:
        return not_shown(request, excluded)
    error = broken.get(request.image_id)
    return answered if error is None else Response.failed(request, error.kind, str(error))
