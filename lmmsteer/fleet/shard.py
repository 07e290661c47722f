"""The way of a shard: read, decode, edit, generate, commit. A pure function of task and part."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from lmmsteer import manifest, parts
from lmmsteer.config import EngineConfig
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.errors import LmmsteerError, PictureError
from lmmsteer.fleet.task import MethodSpec, Report, Task
from lmmsteer.methods import METHODS
from lmmsteer.methods.artifact import Artifact
from lmmsteer.methods.base import Attribute, Context, Method
from lmmsteer.models.lmm import Lmm
from lmmsteer.models.pictures import decode
from lmmsteer.schema import RESPONSES, Picture, Request, Response, to_table
from lmmsteer.store import Store

FILLER = (336, 336)
DECODERS = 2
ENGINES = {"reference": Reference}


def answer(store: Store, lmm: Lmm, task: Task, part: str) -> Report:
    """Answer one shard and commit its part. Rows in = rows out: a failed row is a response too."""
    start = time.monotonic()
    requests = manifest.read_rows(store, task.dataset, part)
    pictures = manifest.read_pictures(store, task.dataset, part)
    shown, broken = decode_all(pictures)
    method, artifact = open_method(store, task.method)
    edit = method.edit(lmm, requests, Context(attribute_of(task.method), artifact))
    engine = open_engine(task.engine)
    sampling = Sampling(**vars(task.sampling))
    answered = engine.generate(lmm, requests, shown, edit, sampling)
    responses = [_replace_broken(r, q, broken) for q, r in zip(requests, answered, strict=True)]
    failed = Counter(r.error_kind for r in responses if r.error_kind is not None)
    created = store.create(f"{task.folder}/{part}", part_bytes(responses, task, failed))
    return Report(len(responses), dict(failed), time.monotonic() - start, created=created)


def part_bytes(responses: Sequence[Response], task: Task, failed: Mapping[str, int]) -> bytes:
    """The response part; its footer counts the failed rows by kind."""
    extra = {"lmmsteer.failed": json.dumps(dict(sorted(failed.items())))}
    return parts.to_bytes(to_table(responses, RESPONSES), task.fingerprint, extra)


def decode_all(
    pictures: Mapping[str, Picture],
) -> tuple[dict[str, Image.Image], dict[str, PictureError]]:
    """Every picture ready to show; a broken one is a grey filler, so that its neighbours' batches
    are what they would be, and comes back beside with its reason.
    """
    shown: dict[str, Image.Image] = {}
    broken: dict[str, PictureError] = {}
    with ThreadPoolExecutor(DECODERS) as pool:
        for image_id, result in zip(pictures, pool.map(_decode, pictures.values()), strict=True):
            if isinstance(result, PictureError):
                broken[image_id] = result
                result = Image.new("RGB", FILLER, (127, 127, 127))
            shown[image_id] = result
    return shown, broken


def open_engine(config: EngineConfig) -> Reference:
    """The engine that a config names."""
    if config.name not in ENGINES:
        known = ", ".join(sorted(ENGINES))
        raise LmmsteerError(f"engine.name={config.name} is unknown.", f"Known engines: {known}")
    return ENGINES[config.name](slots=config.slots)


def open_method(store: Store, spec: MethodSpec) -> tuple[Method, Artifact | None]:
    """The method and, where it has one, its artifact."""
    method = METHODS[spec.method](**spec.parameters)
    if spec.artifact is None:
        return method, None
    data = store.read_bytes(spec.artifact)
    return method, Artifact.from_bytes(data, f"{store.root}/{spec.artifact}")


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
