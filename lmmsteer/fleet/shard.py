"""The way of a shard: read, decode, edit, generate, commit. A pure function of task and part."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from PIL import Image

from lmmsteer import manifest, parts
from lmmsteer.engine.sampling import Sampling
from lmmsteer.errors import PictureError
from lmmsteer.fleet.engines import Engine, facts_of
from lmmsteer.fleet.task import MethodSpec, Report, Task
from lmmsteer.methods import METHODS
from lmmsteer.methods.artifact import Artifact
from lmmsteer.methods.base import Attribute, Context, Features, Method
from lmmsteer.models.lmm import Lmm
from lmmsteer.models.pictures import decode
from lmmsteer.schema import RESPONSES, Picture, Request, Response, to_table
from lmmsteer.store import Store

FILLER = (336, 336)
DECODERS = 2


def answer(store: Store, lmm: Lmm, task: Task, part: str, engine: Engine) -> Report:
    """Answer one shard and commit its part. Rows in = rows out: a failed row is a response too."""
    start = time.monotonic()
    requests = manifest.read_rows(store, task.dataset, part)
    pictures = manifest.read_pictures(store, task.dataset, part)
    sampling = Sampling(**vars(task.sampling))
    with Decoded(pictures) as shown:
        method, context = open_method(store, task.method)
        features = getattr(engine, "features", None)
        edit = method.edit(lmm, requests, _seeing(context, shown, features, task.engine.strict))
        answered = list(engine.generate(lmm, requests, shown, edit, sampling))
        broken = {image_id: error for image_id in shown if (error := shown.error(image_id))}
    responses = [_replace_broken(r, q, broken) for q, r in zip(requests, answered, strict=True)]
    failed = Counter(r.error_kind for r in responses if r.error_kind is not None)
    created = store.create(f"{task.folder}/{part}", part_bytes(responses, task, failed))
    seconds = time.monotonic() - start
    return Report(len(responses), dict(failed), seconds, created=created, engine=facts_of(engine))


def part_bytes(responses: Sequence[Response], task: Task, failed: Mapping[str, int]) -> bytes:
    """The response part; its footer counts the failed rows by kind."""
    extra = {"lmmsteer.failed": json.dumps(dict(sorted(failed.items())))}
    return parts.to_bytes(to_table(responses, RESPONSES), task.fingerprint, extra)


class Decoded(Mapping[str, Image.Image]):
    """A shard's pictures, decoded ahead of whoever asks for one, for the length of a `with` block.

    A broken one is a grey filler, so that its neighbours' batches are what they would be; `error`
    has the reason.
    """

    def __init__(self, pictures: Mapping[str, Picture]) -> None:
        self._pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._made = {i: self._pool.submit(_decode, picture) for i, picture in pictures.items()}

    def __enter__(self) -> Decoded:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __getitem__(self, image_id: str) -> Image.Image:
        found = self._made[image_id].result()
        return Image.new("RGB", FILLER, (127, 127, 127)) if isinstance(found, Exception) else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)

    def error(self, image_id: str) -> PictureError | None:
        """Why a picture cannot be shown, or None."""
        found = self._made[image_id].result()
        return found if isinstance(found, PictureError) else None


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


def _decode(picture: Picture) -> Image.Image | PictureError:
    if picture.bytes is None:
        return PictureError(picture.error_kind or "picture_missing", picture.error or "no bytes")
    try:
        return decode(picture.bytes)
    except PictureError as error:
        return error


def _replace_broken(
    response: Response, request: Request, broken: Mapping[str, PictureError]
) -> Response:
    error = broken.get(request.image_id)
    return response if error is None else Response.failed(request, error.kind, str(error))
