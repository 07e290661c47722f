"""The way of a fit: pictures of a manifest in, an artifact out, written once."""

from __future__ import annotations

import time
from dataclasses import replace

from lmmsteer import manifest
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import shard
from lmmsteer.fleet.engines import open_engine
from lmmsteer.fleet.task import FitTask, Report
from lmmsteer.methods import METHODS
from lmmsteer.models.lmm import Lmm
from lmmsteer.schema import Picture
from lmmsteer.store import Store


def fit(store: Store, lmm: Lmm, task: FitTask) -> Report:
    """Fit a method on the pictures of the named parts; broken ones are left out.

    What defines the fit goes into the artifact's metadata as `fit`, so that another is told apart.
    """
    start = time.monotonic()
    method = METHODS[task.method.method](**task.method.parameters)
    pictures: dict[str, Picture] = {}
    for part in task.parts:
        pictures.update(manifest.read_pictures(store, task.dataset, part))
    with shard.Decoded(pictures) as shown:
        usable = {image_id: shown[image_id] for image_id in shown if not shown.error(image_id)}
    if not usable:
        raise LmmsteerError(f"No picture of {task.dataset} can be read.", "Check dataset.path.")
    engine = open_engine(task.engine)
    artifact = method.fit(lmm, usable, shard.attribute_of(task.method), engine.edited)
    artifact = replace(artifact, metadata={**artifact.metadata, "fit": dict(task.fingerprint)})
    created = store.create(task.path, artifact.to_bytes())
    return Report(seconds=time.monotonic() - start, created=created)
