"""The way of a fit: pictures of a manifest in, an artifact out, written once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from lmmsteer import manifest
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.sampling import Sampling
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import shard
from lmmsteer.fleet.engines import Engine, open_engine
from lmmsteer.fleet.halfway import Halfway
from lmmsteer.fleet.pictures import Decoded
from lmmsteer.fleet.task import FitTask, Report
from lmmsteer.fleet.telling import Teller
from lmmsteer.methods import METHODS
from lmmsteer.methods.base import Learning
from lmmsteer.methods.passes import Helped, Passes
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import LABELS, Picture, Request, Response
from lmmsteer.store import Store


def fit(store: Store, lmm: Lmm, task: FitTask) -> Report:
    """Fit a method on the pictures of the named parts; broken ones are left out.

    What defines the fit goes into the artifact's metadata as `fit`, so that another is told apart.
    One that was killed goes on where it was. A helping hand (`task.hand` above 0) computes passes
    for the first one and makes no artifact.
    """
    start = time.monotonic()
    if task.hand and store.exists(task.path):
        return Report(created=False)
    method = METHODS[task.method.method](**task.method.parameters)
    pictures: dict[str, Picture] = {}
    for part in task.parts:
        pictures.update(manifest.read_pictures(store, task.dataset, part))
    with Decoded(pictures) as shown:
        usable = {image_id: pictures[image_id] for image_id in shown if not shown.error(image_id)}
    if not usable:
        raise LmmsteerError(f"No picture of {task.dataset} can be read.", "Check dataset.path.")
    engine = open_engine(task.engine)
    labels, groups = _labels(store, task)
    teller = Teller(store, task)
    say = _nothing if task.hand else teller
    digests = {image_id: pictures[image_id].sha256 for image_id in usable}
    seen = {"pictures": digests, "labels": labels, "groups": groups}
    halfway = Halfway(store, task, seen, lmm.device.name(), say)
    with Decoded(usable) as shown:
        learning = Learning(
            pictures=shown,
            attribute=shard.attribute_of(task.method),
            edited=engine.edited,
            answer=_answering(engine),
            labels=labels,
            groups=groups,
            say=say,
            passes=Passes(halfway, task.hand, task.hands),
        )
        try:
            artifact = method.fit(lmm, learning)
        except Helped:
            artifact = None
    if task.hand or artifact is None:
        if halfway.over():  # What was put there after the first hand had cleared it.
            halfway.clear()
        return Report(seconds=time.monotonic() - start, created=False)
    artifact = replace(artifact, metadata={**artifact.metadata, "fit": dict(task.fingerprint)})
    created = store.create(task.path, artifact.to_bytes())
    halfway.clear()
    return Report(seconds=time.monotonic() - start, created=created, said=tuple(teller.said))


def _nothing(line: str) -> None:
    """What a helping hand says: the first one says the same."""


def _labels(store: Store, task: FitTask) -> tuple[dict[str, str], dict[str, str]]:
    """What the data set says of each picture's attribute, and its counterfactual set."""
    column = task.method.attribute["name"]
    labels: dict[str, str] = {}
    groups: dict[str, str] = {}
    for part in task.parts:
        for row in manifest.read_rows(store, task.dataset, part):
            label = getattr(row, column) if column in LABELS else (row.extra or {}).get(column)
            if label is not None:
                labels[row.image_id] = label
            if row.group_id is not None:
                groups[row.image_id] = row.group_id
    return labels, groups


def _answering(engine: Engine) -> Any:
    def answer(
        lmm: Lmm,
        requests: Sequence[Request],
        pictures: Mapping[str, Image.Image],
        edit: Edit,
        max_new_tokens: int,
        temperature: float = 0.0,
    ) -> Iterator[Response]:
        sampling = Sampling(temperature, top_k=0, max_new_tokens=max_new_tokens)
        return engine.generate(lmm, requests, pictures, edit, sampling)

    return answer
